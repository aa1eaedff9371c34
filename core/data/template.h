/* template.h -- chat formats: messages to tokens, the same way in every stage.
 *
 * A format is a row of a table (template.c), never a branch: what stands before and after a system, user and assistant
 * turn, what cues the model to answer, what ends a turn, and the strings at which generation stops.
 *
 *        plain    user text and answer as they are: "USER" "ANSWER"; a system message is put in front of the user's with
 *                 a blank line between; later turns follow directly. For base models and continuation.
 *        alpaca   "SYSTEM\n\n### Instruction:\nUSER\n\n### Response:\nANSWER", turns joined by "\n\n"; without a system message
 *                 the one that Stanford Alpaca uses stands there.
 *        chatml   "<|im_start|>ROLE\nTEXT<|im_end|>\n" for each turn; the answer's turn ends with <|im_end|>. Markers that
 *                 the tokenizer has as tokens are those tokens, whatever flags say; else they are written as text.
 *        hh       "\n\nHuman: USER\n\nAssistant: ANSWER", the transcript form of Anthropic's hh-rlhf; a system message
 *                 stands in front.
 *
 * How a conversation becomes tokens (the rule that SFT, the reward model, PPO and generation share, byte for byte):
 *   1. A conversation is cut into pieces: the prompt (everything up to and with the cue of an assistant's turn), the answer,
 *      the text up to and with the next cue, the next answer, and so on. Each piece is tokenised by itself and
 *      the ids are concatenated; no token ever spans a cut. Inside a piece, markers that are tokens cut too.
 *   2. BOS stands first if tokenizer_adds_bos(). The first text of a sequence is encoded with no flags, every later one with
 *      TOKENIZER_CONTINUE, so the text of the concatenation is the concatenation of the texts.
 *   3. An answer that is complete ends with the format's end token: the marker if the format has one and the tokenizer has it as
 *      a token (<|im_end|>), else EOS, else nothing (then the format's text stands there). What follows an end token inside a
 *      turn (chatml's "\n") belongs to the next piece and is left out at the end of a sequence.
 *   4. Message texts are never searched for special tokens: a message cannot forge a turn.
 *   5. loss[i] is 1 for the tokens of answers and their end tokens, 0 for everything else.
 * So template_encode(all messages) == template_encode(prompt) then template_encode_answer(answer), which is what lets the
 * stages compare log-probs of a response wherever it came from. */
#ifndef CORE_DATA_TEMPLATE_H
#define CORE_DATA_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/data/tokenizer.h"

typedef enum MessageRole { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } MessageRole;

/* "system", "user"/"human"/"prompter", "assistant"/"gpt"/"bot"/"model"; false if it is none of them. */
bool message_role_from_name(const char *name, MessageRole *role);

typedef struct Message {
    MessageRole role;
    const char *text; /* borrowed, UTF-8 */
    size_t size;      /* bytes */
} Message;

typedef struct Template Template; /* a row of the table */

/* NULL if there is none of that name. */
const Template *template_find(const char *name);
const char *template_name(const Template *format);
/* The names, for messages and help; returns their count. */
int template_names(const char *const **names);

/* Ids with a loss flag each; {0} is an empty one. `flags` has room for tokens.capacity. */
typedef struct TemplateTokens {
    TokenList tokens; // (count)
    uint8_t *loss;    // (count) 1: this token is learned
    int64_t loss_capacity;
} TemplateTokens;

void template_tokens_clear(TemplateTokens *tokens);
void template_tokens_free(TemplateTokens *tokens);

/* A conversation from its start; appends to `out`, which is usually empty. Ends with a user (or system) turn: a prompt, and the
 * cue of an assistant's turn is added. Ends with an assistant's turn: a whole example, ended as rule 3 says. At most
 * one system message, and first; two user turns in a row are joined by a blank line, two assistant turns are an error, and so is
 * a conversation that starts with an assistant or has no message. On failure `out` is as before. */
Status template_encode(const Template *format, const Tokenizer *tokenizer, const Message *messages, int64_t count,
                       TemplateTokens *out);
/* An answer after a prompt: its text and, if `complete`, the end token; loss 1. */
Status template_encode_answer(const Template *format, const Tokenizer *tokenizer, const char *text, size_t size,
                              bool complete, TemplateTokens *out);

/* The token that ends an answer (rule 3); -1: none, generation ends by stop strings and length only. */
int32_t template_end_token(const Template *format, const Tokenizer *tokenizer);
/* Strings at which generation stops besides the end token (the start of the next user turn); returns their count. */
int template_stops(const Template *format, const char *const **stops);
/* The prompt as text, for people: what template_encode() tokenises, markers written out. */
Status template_text(const Template *format, const Message *messages, int64_t count, Text *out);

#endif
