/* reward_rules.h -- judges that need no model: words of a lexicon, length, a known answer. */
#ifndef REWARDS_REWARD_RULES_H
#define REWARDS_REWARD_RULES_H

#include "rewards/reward.h"

/* --- words: scores of words summed over a response (reward_words.c) --- */

typedef struct Lexicon Lexicon;

/* A text file, one `word<TAB>score` a line; what stands after a further tab is not read, empty lines are skipped, of a word
 * that comes twice the last holds. The form of the VADER lexicon (Hutto and Gilbert 2014). STATUS_INPUT names the line. [local] */
Status lexicon_open(Lexicon **lexicon, const char *path);
void lexicon_close(Lexicon **lexicon);
const char *lexicon_digest(const Lexicon *lexicon);
/* Sum of the scores of a text's words; *words, if not NULL, is how many words the text has. A token between spaces is looked up as it stands (emoticons),
 * then in lower case without the punctuation around it, and is otherwise cut at everything that is no letter or apostrophe into words. */
double lexicon_sum(const Lexicon *lexicon, const char *text, int64_t *words);

extern const RewardKind reward_kind_words;

/* --- length (reward_rules.c) --- */
extern const RewardKind reward_kind_length;

/* --- match (reward_rules.c) --- */

/* The answer that a text ends with as a number: the first number after the last "####" where there is one (the form of GSM8K), else the last number in
 * it. "1,234.50", "-3" and "$18" are numbers; the minus in "16-3" is none. False: there is none. */
bool match_number(const char *text, double *number);

extern const RewardKind reward_kind_match;

#endif
