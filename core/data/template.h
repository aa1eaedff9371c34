/* template.h -- chat formats: messages to tokens, the same way in every stage.
 *
 * A format is a row of a table (template.c), never a branch: what stands before and after a system, user and assistant
 * turn, what cues the model to answer, what ends a turn, and the strings at which generation stops.
 *
 *     plain   SYSTEM "\n\n" USER ANSWER                                 (the system part only if there is one)
 *     alpaca  SYSTEM "\n\n### Instruction:\n" USER "\n\n### Response:\n" ANSWER; later turns start with
 *             "\n\n### Instruction:\n"; without a system message the sentence of Stanford Alpaca stands there
 *     chatml  "<|im_start|>system\n" SYSTEM "<|im_end|>\n" "<|im_start|>user\n" USER "<|im_end|>\n" "<|im_start|>assistant\n" ANSWER
 *             "<|im_end|>" ("\n" before the next turn)
 *     hh      SYSTEM "\n\nHuman:" USER "\n\nAssistant:" ANSWER, the transcripts of hh-rlhf; USER and ANSWER get a
 *             space in front unless they are empty or start with a space or line break
 *
 * How a conversation becomes tokens (the rule that SFT, the reward model, PPO and generation share, byte for byte):
 *   1. A conversation is cut into pieces: the prompt (everything up to and with the cue of an assistant's turn), the answer,
 *      the text up to and with the next cue, the next answer, and so on. Each piece is tokenised by itself and the
 *      ids are concatenated: no token spans a cut. A marker (<|im_start|>, <|im_end|>) that the tokenizer has as a token is that
 *      token, and cuts too; one that it has not is text like any other.
 *   2. BOS stands first if tokenizer_adds_bos(). A prompt's text with nothing or only BOS before it is encoded with no flags,
 *      all other text, answers always, with TOKENIZER_CONTINUE: the text of the concatenation is the concatenation of the texts.
 *   3. A complete answer ends with the format's end token: the end marker (<|im_end|>) if the format has one and the
 *      tokenizer has it as a token; else EOS; else, where there is no EOS either, the marker as text or nothing. What a
 *      format puts between an end token and the next turn belongs to the next piece; a sequence ends with the end token.
 *   4. Message texts are never searched for special tokens: a message cannot forge a turn or end one.
 *   5. loss[i] is 1 for the tokens of answers and their end tokens, 0 for everything else.
 * So template_encode(all messages) == template_encode(prompt) followed by template_encode_answer(answer), which is what
 * lets the stages compare log-probs of a response wherever it came from. */
#ifndef CORE_DATA_TEMPLATE_H
#define CORE_DATA_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/data/tokenizer.h"

typedef enum TemplateKind {
    TEMPLATE_PLAIN,
    TEMPLATE_ALPACA,
    TEMPLATE_CHATML,
    TEMPLATE_HH,
    TEMPLATE_KINDS
} TemplateKind;
typedef struct Template Template; /* a row of the table */

const Template *template_get(TemplateKind kind);
/* NULL if there is none of that name. */
const Template *template_find(const char *name);
const char *template_name(const Template *format);
/* The names in the order of TemplateKind, TEMPLATE_KINDS of them and a NULL (a config key's choices). */
const char *const *template_names(void);

typedef enum MessageRole { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } MessageRole;
/* system; user, human, prompter; assistant, gpt, bot, model (case-insensitive). False if it is none of them. */
bool message_role_from_name(const char *name, MessageRole *role);

typedef struct Message {
    MessageRole role;
    const char *text; /* borrowed, UTF-8, need not end with a zero byte */
    size_t size;      /* bytes */
} Message;

/* Ids with a loss flag each; {0} is an empty one. */
typedef struct TemplateTokens {
    TokenList tokens; // (count)
    uint8_t *loss;    // (count) 1: this token is learned
    int64_t loss_capacity;
} TemplateTokens;

void template_tokens_clear(TemplateTokens *tokens);
void template_tokens_free(TemplateTokens *tokens);

/* A conversation from its start; appends to `out`, which is usually empty. Ending with a user turn it is a prompt, and the cue of
 * an assistant's turn is added. Ending with an assistant's turn it is a whole example. At most one system
 * message, and first; user turns in a row are joined by a blank line. No user turn before an assistant's, two
 * assistant turns in a row, or no turn at all are STATUS_INPUT. On failure `out` is as before. */
Status template_encode(const Template *format, const Tokenizer *tokenizer, const Message *messages, int64_t count,
                       TemplateTokens *out);
/* An answer that follows a prompt (which may stand in `out` or elsewhere): its text and, if `complete`, its end; loss 1.
 * An answer that a model generated and tokenizer_decode(..., TOKENIZER_CONTINUE) gave back goes in as it is. */
Status template_encode_answer(const Template *format, const Tokenizer *tokenizer, const char *text, size_t size,
                              bool complete, TemplateTokens *out);
/* A text that is no conversation: BOS as rule 2 says, the text, EOS if `complete` and there is one; loss 1 but for BOS. */
Status template_encode_text(const Tokenizer *tokenizer, const char *text, size_t size, bool complete,
                            TemplateTokens *out);

/* The token that ends an answer (rule 3); -1: none, generation ends by stop strings and length only. */
int32_t template_end_token(const Template *format, const Tokenizer *tokenizer);
/* Strings at which generation stops besides the end token: the start of the next user turn, and an end marker that is not a token.
 * A list that ends with NULL. */
const char *const *template_stops(const Template *format);
/* The conversation as text, for people: what template_encode() tokenises, markers written out, no BOS or EOS. */
Status template_text(const Template *format, const Message *messages, int64_t count, Text *out);

#endif
