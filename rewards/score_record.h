/* score_record.h -- one line of JSON as the answers to be scored in it.
 *
 *     {"prompt": P, "response" | "completion": A}                 one answer
 *     {"messages" | "conversations": [...]}                       one: the last turn, an assistant's
 *     {"text": T}                                                 one: the text itself, in no chat format
 *     {"prompt": P, "responses": [A...], "ranks" | "scores"?}     K answers; ranks: lower is better, scores: higher is better
 *     {"prompt"?: P, "chosen": A, "rejected": A}                  two
 *     {"conversations" | "messages": [...], "chosen": A, "rejected": A}   two, after those turns
 * P is a string or a list of messages ({"role", "content"} or {"from", "value"}). A is a string, one message, or a list of messages, which is a whole
 * conversation unless it starts with the assistant. Without a prompt, a string that starts with "\n\nHuman:" is a transcript as in hh-rlhf, and any
 * other is a text. Other fields are carried along. */
#ifndef REWARDS_SCORE_RECORD_H
#define REWARDS_SCORE_RECORD_H

#include "core/data/json.h"
#include "core/data/template.h"
#include "rewards/sequences.h"

/* How text becomes tokens: what the reward model was trained with. */
typedef struct ScoreFormat {
    const Template *format;
    const Tokenizer *tokenizer;
    bool append_eos;       /* texts end in EOS */
    int64_t max_length;    /* longer sequences lose their end but keep an end token; 0: never */
    int64_t positions_max; /* of the model: longer is an error */
} ScoreFormat;

typedef enum ScoreShape { SCORE_ONE, SCORE_MANY, SCORE_PAIR } ScoreShape;

typedef struct ScoreRecord {
    ScoreShape shape;
    int64_t first, count; /* its sequences in the list; a pair's first is the chosen one */
    double *strength;     /* (count) higher is better; NULL: not known. memory_free it */
} ScoreRecord;

/* Append the record's sequences to `list`, each with one result. STATUS_INPUT names path, line and key; `list` is then as before. */
Status score_record_parse(const ScoreFormat *format, JsonPlace place, const json_t *record, SequenceList *list,
                          ScoreRecord *out);

/* The prompt of a record for generation: the conversation up to the answer, encoded with the cue of the answer, appended to `tokens`. {"text"} is
 * encoded as it stands. Any shape above will do; answers in it are not read. */
Status score_record_prompt(const ScoreFormat *format, JsonPlace place, const json_t *record, TemplateTokens *tokens);

#endif
