/* model.h -- one decoder with one head on one device. Policy, reference, critic and reward model are four instances of it. */
#ifndef CORE_MODEL_MODEL_H
#define CORE_MODEL_MODEL_H

#include "core/model/params.h"
#include "core/tensor/forward.h"

typedef struct Model {
    ModelShape shape;
    HeadKind head;
    Device *device;
    Arena arena;  /* model lifetime: parameters, rope table */
    Arena master; /* the F32 parameters where layers multiply narrower ones, until model_freeze; else not open */
    Params params;
    Tensor rope; /* (positions_max, head_dim / 2, 2), absent with learned positions */
} Model;

/* Memory for the parameters (contents zero), no gradient. Layers compute in device->flow. The caller fills them (params_initialise, checkpoint, huggingface).
 * STATUS_MEMORY: more than the machine has. On failure nothing stays open. */
Status model_open(Model *model, Device *device, const ModelShape *shape, HeadKind head);
void model_close(Model *model);
/* It will never learn nor be saved: where layers multiply narrower parameters, the F32 ones go, but for gains and biases. */
void model_freeze(Model *model);
/* Bytes on the device. */
size_t model_bytes(const Model *model);
/* Do its parameters stay in a processor's caches? Then each of several threads may as well read them all (device_strands). */
bool model_stays_cached(const Model *model);
/* Copy every view that both have (a critic from a reward model, a reward model from an SFT model); what `to` alone has stays. Shapes must be equal. */
void model_copy(Model *to, const Model *from);

/* Keys and values of all layers for `slots` sequences of at most `capacity` tokens. */
typedef struct KvCache {
    int64_t slots, capacity;
    Tensor k, v; /* (layers, slots, kv_heads, capacity * head_dim) as one flat array per kind */
} KvCache;
KvCache kv_cache_new(const Model *model, Arena *arena, int64_t slots, int64_t capacity);
/* Slot `to` holds from now on what slot `from` holds. */
void kv_cache_copy(const KvCache *cache, Device *device, int64_t to, int64_t from);

/* Which slot each sequence of a batch uses and how much is there already. */
typedef struct KvUse {
    const KvCache *cache;
    Tensor slot, past; /* (sequences) I32 */
    double pairs;
} KvUse;

/* Hidden states after the final norm of the rows that are `wanted`, (wanted, width); absent: of all, (tokens, width). wanted I32, distinct where gradients are asked for: what follows the
 * last layer's attention is computed for these alone. `kv` NULL: sequences start at nothing. Gradients where exec->tape is set and parameters have them. */
Tensor model_hidden(const Model *model, Exec *exec, const TokenBatch *batch, Tensor wanted, const KvUse *kv);
/* The LM head's matrix (the token table when tied), for head_nll and its kin. */
VocabularyHead model_vocabulary_head(const Model *model, float temperature);
/* Scalar head on rows of hidden (rows, width) -> (rows). */
Tensor model_score(const Model *model, Exec *exec, Tensor hidden);

#endif
