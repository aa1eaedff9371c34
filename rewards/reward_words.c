/* reward_words.c -- the sum of word scores: a judge that reads nothing but a list of words, and so cannot be fooled in the way that a learned one is. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"
#include "rewards/reward_rules.h"

enum { LEXICON_BYTES_MAX = 256 << 20 };

typedef struct Word {
    const char *text; /* in `bytes`, zero-terminated */
    double score;
    int64_t line;
} Word;

struct Lexicon {
    Text bytes;
    Word *word; /* (count) sorted by text */
    int64_t count, capacity;
    char digest[H5_DIGEST_TEXT];
};

static int compare_words(const void *a, const void *b)
{
    const Word *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : (x->line > y->line) - (x->line < y->line);
}

static int compare_key(const void *key, const void *word)
{
    return strcmp(key, ((const Word *)word)->text);
}

/* Cut the file into words in place. */
static Status parse_lines(Lexicon *self, const char *path)
{
    char *line = self->bytes.bytes, *end = line + self->bytes.size;
    for (int64_t number = 1; line < end; number++) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        char *next = stop ? stop + 1 : end;
        if (!stop)
            stop = end;
        while (stop > line && (stop[-1] == '\r' || stop[-1] == ' '))
            stop--;
        *stop = 0;
        if (strlen(line) != (size_t)(stop - line))
            return status_error(STATUS_INPUT, "%s:%lld: a zero byte", path, (long long)number);
        if (stop > line) {
            char *tab = strchr(line, '\t'), *after = NULL;
            errno = 0;
            double score = tab ? strtod(tab + 1, &after) : 0;
            if (!tab || tab == line || after == tab + 1 || (*after && *after != '\t' && *after != ' ') ||
                !isfinite(score))
                return status_error(STATUS_INPUT, "%s:%lld: expected a word, a tab and a number, found \"%.60s\"", path,
                                    (long long)number, line);
            *tab = 0;
            memory_reserve(&self->word, self->count, &self->capacity);
            self->word[self->count++] = (Word){line, score, number};
        }
        line = next;
    }
    if (self->count == 0)
        return status_error(STATUS_INPUT, "%s: no words", path);
    return status_ok();
}

Status lexicon_open(Lexicon **lexicon, const char *path)
{
    *lexicon = NULL;
    Lexicon *self = memory_new(1, sizeof *self);
    Status status = text_read_file(path, LEXICON_BYTES_MAX, &self->bytes);
    if (!status_failed(status)) {
        h5_digest_text(h5_digest_bytes(text_string(&self->bytes), self->bytes.size), self->digest);
        status = parse_lines(self, path);
    }
    if (status_failed(status)) {
        lexicon_close(&self);
        return status;
    }
    qsort(self->word, (size_t)self->count, sizeof *self->word, compare_words);
    int64_t kept = 0;
    for (int64_t i = 0; i < self->count; i++)
        if (i + 1 == self->count || strcmp(self->word[i].text, self->word[i + 1].text) != 0)
            self->word[kept++] = self->word[i];
    self->count = kept;
    *lexicon = self;
    return status_ok();
}

void lexicon_close(Lexicon **lexicon)
{
    if (!*lexicon)
        return;
    text_free(&(*lexicon)->bytes);
    memory_free(&(*lexicon)->word);
    memory_free(lexicon);
}

const char *lexicon_digest(const Lexicon *lexicon)
{
    return lexicon->digest;
}

static const Word *find(const Lexicon *lexicon, const char *key)
{
    return bsearch(key, lexicon->word, (size_t)lexicon->count, sizeof *lexicon->word, compare_key);
}

static bool is_space(char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Bytes of characters beyond ASCII count as letters: "café" is one word. */
static bool is_letter(char byte)
{
    return (byte & 0x80) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

static bool is_word_byte(char byte)
{
    return is_letter(byte) || byte == '\'';
}

static void lower(char *text)
{
    for (; *text; text++)
        if (*text >= 'A' && *text <= 'Z')
            *text = (char)(*text - 'A' + 'a');
}

/* One token between spaces, a string of its own that may be written into. */
static double token_score(const Lexicon *lexicon, char *token, int64_t *words)
{
    const Word *word = find(lexicon, token);
    if (word) {
        ++*words;
        return word->score;
    }
    lower(token);
    size_t size = strlen(token);
    while (size && !isalnum((unsigned char)token[size - 1]) && !(token[size - 1] & 0x80))
        token[--size] = 0;
    while (*token && !isalnum((unsigned char)*token) && !(*token & 0x80))
        token++;
    if (*token && (word = find(lexicon, token))) {
        ++*words;
        return word->score;
    }
    double sum = 0;
    while (*token) {
        if (!is_word_byte(*token)) {
            token++;
            continue;
        }
        char *end = token;
        while (is_word_byte(*end))
            end++;
        char after = *end;
        *end = 0;
        ++*words;
        word = find(lexicon, token);
        sum += word ? word->score : 0;
        *end = after;
        token = end;
    }
    return sum;
}

double lexicon_sum(const Lexicon *lexicon, const char *text, int64_t *words)
{
    double sum = 0;
    int64_t count = 0;
    char *copy = strcpy(memory_borrow(strlen(text) + 1, 1), text);
    for (char *token = copy; *token;) {
        if (is_space(*token)) {
            token++;
            continue;
        }
        char *end = token;
        while (*end && !is_space(*end))
            end++;
        char *next = *end ? end + 1 : end;
        *end = 0;
        sum += token_score(lexicon, token, &count);
        token = next;
    }
    memory_return(&copy);
    if (words)
        *words = count;
    return sum;
}

/* --- The judge ------------------------------------------------------------------------------------------------------ */

typedef enum WordsMode { WORDS_SUM, WORDS_MEAN, WORDS_SIGN } WordsMode;

typedef struct WordsConfig {
    const char *file;
    WordsMode mode;
} WordsConfig;

static const ConfigKey words_keys[] = {
    CONFIG_KEY_PATH(WordsConfig, file, NULL,
                    "The list: one `word<TAB>score` a line, as vader_lexicon.txt has it; further columns are not read.",
                    .operational = true),
    CONFIG_KEY_CHOICE(
        WordsConfig, mode, "sum", "sum|mean|sign",
        "`sum` of the scores of the answer's words; `mean` over its words, which pays nothing for length; "
        "`sign` 1 if the sum is above 0, else 0, so that its mean is a share of answers."),
    {0},
};

typedef struct Words {
    Lexicon *lexicon;
    WordsMode mode;
} Words;

static Status words_open(const RewardContext *context, void **self)
{
    WordsConfig config;
    config_read(context->config, context->path, words_keys, &config);
    Lexicon *lexicon = NULL;
    Status status = comm_agree(context->comm, lexicon_open(&lexicon, config.file));
    if (status_failed(status)) {
        lexicon_close(&lexicon);
        return status;
    }
    Words *words = memory_new(1, sizeof *words);
    *words = (Words){lexicon, config.mode};
    *self = words;
    return status_ok();
}

static Status words_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    (void)exec;
    const Words *words = self;
    for (int64_t i = 0; i < count; i++) {
        int64_t found = 0;
        double sum = lexicon_sum(words->lexicon, samples[i].response, &found);
        /* Scores are decimal fractions: a sum that is zero by the book may be a few ulps away from it. */
        double value = words->mode == WORDS_SIGN   ? (sum > 1e-9 ? 1 : 0)
                       : words->mode == WORDS_MEAN ? (found ? sum / (double)found : 0)
                                                   : sum;
        score[i] = (float)value;
    }
    return status_ok();
}

static void words_close(void *self)
{
    Words *words = self;
    lexicon_close(&words->lexicon);
    memory_release(words);
}

static const char *words_digest(void *self)
{
    return lexicon_digest(((Words *)self)->lexicon);
}

const RewardKind reward_kind_words = {
    .name = "words",
    .keys = words_keys,
    .help = "scores of the answer's words",
    .open = words_open,
    .score = words_score,
    .close = words_close,
    .digest = words_digest,
};
