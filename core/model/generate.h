/* generate.h -- decode a list of prompts in a fixed number of slots: continuous batching whose result depends on the list alone.
 *
 * A unit of work is a list of requests and `slots`. The first `slots` requests are prefilled as one ragged batch, a prompt that several of them
 * share once; every step decodes one token for each running slot, and no work is done on finished ones: rows shrink, every token on the CPU, every 16 on a GPU, which is not kept waiting for the host (decode.h). A
 * freed slot takes the next request of the same list. What is drawn for a
 * request depends on (seed, its subsequence, token index) and its logits; the batch's shape can move logits in the last bits, and the shape is a
 * function of the list. */
#ifndef CORE_MODEL_GENERATE_H
#define CORE_MODEL_GENERATE_H

#include "core/base/rng.h"
#include "core/model/model.h"

/* Prompts are prefilled in batches of at most this many tokens (a longer prompt makes one of its own), so the memory of
 * a prefill does not grow with slots. Part of what a result means: another value moves logits in the last bits. */
enum { GENERATE_PREFILL_TOKENS = 4096 };

typedef struct GenerateRequest {
    const int32_t *prompt; /* prompt_count >= 1 tokens, host memory */
    int64_t prompt_count;
    RngStream stream; /* position = index of the new token; one seed for the whole list */
    bool same_prompt; /* as the request before: another sample of it, prefilled with it where both have a slot */
} GenerateRequest;

typedef struct GenerateResult {
    int32_t *token; /* (max_new) caller's memory; the stop token is kept as the last one */
    float *logprob; /* (max_new) of each under softmax(logits / temperature), as drawn; or NULL */
    int64_t count;  /* tokens made */
    bool stopped;   /* by a stop token or by `accept`; false: max_new reached */
} GenerateResult;

typedef struct GenerateOptions {
    int64_t slots, max_new;
    float temperature, top_p; /* temperature 0: greedy; top_p >= 1: off */
    int64_t top_k;            /* 0: off */
    const int32_t *stop;      /* token ids that end a response */
    int stop_count;
    /* Called after each new token, in order of slot, with its request's index; false ends that response (stop strings). NULL: none. */
    bool (*accept)(void *context, int64_t request, int32_t token);
    void *context;
} GenerateOptions;

/* Every request is answered, in whatever order; results[i] is of requests[i]. Longest prompt plus max_new must fit positions_max: STATUS_USAGE names the request. Non-finite logits: STATUS_NUMERIC. `step` is rewound to where it was. [local] */
Status generate(const Model *model, Exec *exec, const GenerateRequest *requests, int64_t count,
                const GenerateOptions *options, GenerateResult *results);

/* Rows that went through the decoder in decode steps since the program began and gave a token: tokens generated less one per response, exactly. And
 * rows of responses that had ended inside a burst: none on the CPU. */
uint64_t generate_decoded_rows(void);
uint64_t generate_wasted_rows(void);

#endif
