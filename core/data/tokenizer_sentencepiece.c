/* tokenizer_sentencepiece.c -- a SentencePiece BPE model (tokenizer.model) as a tokenizer.json.
 *
 * SentencePiece has no list of merges: two neighbours merge if together they are a piece, best score first, leftmost among
 * equals. The same in tokenizer.json: for every piece all its divisions into two pieces, in order of score. That divisions of
 * one piece are equals, and that the space before the text is put there once, is what "sentencepiece": true says in
 * the canonical form. */
#include <sentencepiece.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

typedef enum PieceType {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6
} PieceType;
enum { MODEL_BPE = 2, PIECES_MAX = 1 << 24, PIECE_SIZE_MAX = 1 << 12 };

typedef struct MergeRow {
    float score;
    int32_t id;  /* of the merged piece */
    size_t left; /* bytes of its left part */
} MergeRow;

static int compare_rows(const void *a, const void *b)
{
    const MergeRow *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->left > y->left) - (x->left < y->left);
}

static Status check_model(JsonPlace place, const Sentencepiece__Model *model)
{
    static const char *const types[] = {"an unknown model type", "Unigram", "BPE", "WORD", "CHAR"};
    int32_t type = model->trainer ? model->trainer->model_type : 1;
    if (type != MODEL_BPE)
        return json_error(place, "%s is not supported as a SentencePiece model; BPE is",
                          types[type >= 1 && type <= 4 ? type : 0]);
    if (!model->n_pieces || model->n_pieces > PIECES_MAX)
        return json_error(place, "a model of %zu pieces", model->n_pieces);
    if (model->trainer->treat_whitespace_as_suffix)
        return json_error(place, "SentencePiece with treat_whitespace_as_suffix is not supported");
    const Sentencepiece__Normalizer *normalizer = model->normalizer;
    if (normalizer && normalizer->precompiled_charsmap.len)
        return json_error(place, "SentencePiece normalization \"%.50s\" is not supported; identity is",
                          normalizer->name ? normalizer->name : "");
    if (normalizer && !normalizer->escape_whitespaces)
        return json_error(place, "SentencePiece without escape_whitespaces is not supported");
    for (size_t i = 0; i < model->n_pieces; i++) {
        const Sentencepiece__Piece *piece = model->pieces[i];
        if (!piece->piece || !*piece->piece || strlen(piece->piece) > PIECE_SIZE_MAX)
            return json_error(place, "piece %zu has no text, or too much", i);
        size_t size = strlen(piece->piece);
        if (utf8_check(piece->piece, size) < size)
            return json_error(place, "piece %zu is not UTF-8", i);
        if (piece->score != piece->score)
            return json_error(place, "piece %zu: the score is not a number", i);
        if (piece->type < PIECE_NORMAL || piece->type > PIECE_BYTE || piece->type == PIECE_UNUSED)
            return json_error(place, "piece %zu: type %d is not supported", i, piece->type);
    }
    return status_ok();
}

/* All divisions of every piece into two pieces. Control, unknown and byte pieces take no part. */
static json_t *make_merges(const Sentencepiece__Model *model, const Bpe *bpe)
{
    MergeRow *rows = NULL;
    size_t count = 0, capacity = 0;
    for (size_t i = 0; i < model->n_pieces; i++) {
        const char *text = model->pieces[i]->piece;
        size_t size = strlen(text), length;
        if (bpe_find(bpe, text, size) < 0)
            continue;
        for (size_t at = 0; at < size;) {
            utf8_char(text + at, &length);
            at += length;
            if (at == size || bpe_find(bpe, text, at) < 0 || bpe_find(bpe, text + at, size - at) < 0)
                continue;
            memory_reserve(&rows, count, &capacity);
            rows[count++] = (MergeRow){model->pieces[i]->score, (int32_t)i, at};
        }
    }
    if (count)
        qsort(rows, count, sizeof *rows, compare_rows);
    json_t *merges = json_array();
    for (size_t i = 0; i < count; i++) {
        const char *text = model->pieces[rows[i].id]->piece;
        json_array_append_new(merges, json_pack("[s%, s]", text, rows[i].left, text + rows[i].left));
    }
    memory_free(&rows);
    return merges;
}

static json_t *make_normalizer(const Sentencepiece__Normalizer *normalizer)
{
    json_t *steps = json_array();
    if (!normalizer || normalizer->remove_extra_whitespaces) {
        static const char *const patterns[][2] = {{"\\A +", ""}, {" +\\z", ""}, {" {2,}", " "}};
        for (int i = 0; i < 3; i++)
            json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "Regex",
                                                   patterns[i][0], "content", patterns[i][1]));
    }
    if (!normalizer || normalizer->add_dummy_prefix)
        json_array_append_new(steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", "\xe2\x96\x81"));
    json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                           "content", "\xe2\x96\x81"));
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
}

static json_t *make_decoder(const Sentencepiece__Normalizer *normalizer)
{
    json_t *steps = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                              "\xe2\x96\x81", "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (!normalizer || normalizer->add_dummy_prefix)
        json_array_append_new(
            steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

/* Control and unknown pieces are special tokens; user-defined ones are found in any text. */
static json_t *make_added(const Sentencepiece__Model *model)
{
    json_t *added = json_array();
    for (size_t i = 0; i < model->n_pieces; i++) {
        int32_t type = model->pieces[i]->type;
        if (type != PIECE_UNKNOWN && type != PIECE_CONTROL && type != PIECE_USER)
            continue;
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)i, "content",
                                               model->pieces[i]->piece, "single_word", 0, "lstrip", 0, "rstrip", 0,
                                               "normalized", 0, "special", type != PIECE_USER));
    }
    return added;
}

static int role(const Sentencepiece__Model *model, int32_t id)
{
    return id >= 0 && (size_t)id < model->n_pieces ? id : -1;
}

static Status convert(JsonPlace place, const Sentencepiece__Model *model, json_t **root)
{
    TRY(check_model(place, model));
    json_t *vocab = json_object();
    Bpe bpe;
    bpe_init(&bpe, (int32_t)model->n_pieces, (int32_t)model->n_pieces);
    Status status = status_ok();
    for (size_t i = 0; i < model->n_pieces && !status_failed(status); i++) {
        const Sentencepiece__Piece *piece = model->pieces[i];
        if (json_object_get(vocab, piece->piece))
            status = json_error(place, "piece %zu (\"%.100s\") stands twice", i, piece->piece);
        json_object_set_new(vocab, piece->piece, json_integer((json_int_t)i));
        if (piece->type == PIECE_NORMAL || piece->type == PIECE_USER)
            bpe_add_piece(&bpe, (int32_t)i, piece->piece, strlen(piece->piece));
    }
    const Sentencepiece__Trainer *trainer = model->trainer;
    int unk = role(model, trainer->unk_id), bos = role(model, trainer->bos_id);
    if (!status_failed(status) && unk < 0)
        status = json_error(place, "unk_id %d is no piece", trainer->unk_id);
    if (!status_failed(status)) {
        json_t *own =
            json_pack("{s:i, s:i, s:i, s:i, s:b, s:b}", "bos", bos, "eos", role(model, trainer->eos_id), "pad",
                      role(model, trainer->pad_id), "unk", unk, "adds_bos", bos >= 0, "sentencepiece", 1);
        json_t *parts = json_pack("{s:s, s:s, s:b, s:b, s:O, s:o, s:o}", "type", "BPE", "unk_token",
                                  model->pieces[unk]->piece, "fuse_unk", 1, "byte_fallback", trainer->byte_fallback,
                                  "vocab", vocab, "merges", make_merges(model, &bpe), "tercet", own);
        *root =
            json_pack("{s:s, s:n, s:n, s:o, s:o, s:n, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                      "added_tokens", make_added(model), "normalizer", make_normalizer(model->normalizer),
                      "pre_tokenizer", "post_processor", "decoder", make_decoder(model->normalizer), "model", parts);
        REQUIRE(*root, "a tokenizer.json from its parts");
        if (bos >= 0)
            json_object_set_new(*root, "post_processor", tokenizer_bos_template(model->pieces[bos]->piece, bos));
    }
    bpe_free(&bpe);
    json_decref(vocab);
    return status;
}

Status sentencepiece_to_json(const char *path, const void *bytes, size_t size, json_t **root)
{
    *root = NULL;
    Sentencepiece__Model *model = sentencepiece__model__unpack(NULL, size, bytes);
    JsonPlace place = {path, 0};
    if (!model)
        return json_error(place, "expected a SentencePiece model, found a damaged or truncated file");
    Status status = convert(place, model, root);
    sentencepiece__model__free_unpacked(model, NULL);
    return status;
}
