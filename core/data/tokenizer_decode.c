/* tokenizer_decode.c -- ids back to text, at once or as they arrive.
 *
 * How:   at opening, every id's contribution is worked out once (byte-level tokens as bytes, spaces put back, byte tokens
 *        as their byte). Decoding is then concatenation, with two things that depend on the neighbours: bytes that are
 *        not UTF-8 become U+FFFD, and SentencePiece's leading space goes. Decoding a whole list is streaming it. */
#include <string.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

#define REPLACEMENT "\xef\xbf\xbd"

/* --- Reading -----------------------------------------------------------------------------------------------------*/

typedef struct Replacement {
    const char *from, *to;
    size_t from_size, to_size;
} Replacement;

enum { REPLACEMENTS_MAX = 4, DEPTH_MAX = 8 };

typedef struct DecoderPlan {
    Decoder *decoder;
    Replacement replacements[REPLACEMENTS_MAX];
    int count;
} DecoderPlan;

static Status parse_replace(DecoderPlan *plan, JsonPlace place, const json_t *value)
{
    const json_t *pattern;
    TRY(json_get_object(place, value, "pattern", JSON_REQUIRED, &pattern));
    if (plan->count == REPLACEMENTS_MAX || plan->decoder->fused || !json_has(pattern, "String"))
        return json_error(place, "decoder: this form of Replace is not supported");
    Replacement *replacement = &plan->replacements[plan->count++];
    TRY(json_get_string(place, pattern, "String", JSON_REQUIRED, &replacement->from, &replacement->from_size));
    TRY(json_get_string(place, value, "content", JSON_REQUIRED, &replacement->to, &replacement->to_size));
    if (!replacement->from_size)
        return json_error(place, "decoder: Replace of an empty string");
    return status_ok();
}

static Status parse_strip(DecoderPlan *plan, JsonPlace place, const json_t *value)
{
    const char *content;
    int64_t start, stop;
    TRY(json_get_string(place, value, "content", JSON_REQUIRED, &content, NULL));
    TRY(json_get_int64(place, value, "start", JSON_REQUIRED, &start));
    TRY(json_get_int64(place, value, "stop", JSON_REQUIRED, &stop));
    if (!plan->decoder->fused || plan->decoder->strip || strlen(content) != 1 || start < 0 || start > 1000 || stop != 0)
        return json_error(place, "decoder: this form of Strip is not supported");
    plan->decoder->strip = content[0];
    plan->decoder->strip_count = (int32_t)start;
    return status_ok();
}

static Status parse_metaspace(DecoderPlan *plan, JsonPlace place, const json_t *value)
{
    const char *replacement = "\xe2\x96\x81", *scheme = NULL;
    bool add_prefix_space = true;
    TRY(json_get_string(place, value, "replacement", JSON_OPTIONAL, &replacement, NULL));
    TRY(json_get_string(place, value, "prepend_scheme", JSON_OPTIONAL, &scheme, NULL));
    TRY(json_get_bool(place, value, "add_prefix_space", JSON_OPTIONAL, &add_prefix_space));
    if (plan->count == REPLACEMENTS_MAX || !*replacement)
        return json_error(place, "decoder: this form of Metaspace is not supported");
    plan->replacements[plan->count++] = (Replacement){replacement, " ", strlen(replacement), 1};
    plan->decoder->strip = ' ';
    plan->decoder->strip_first_token = scheme ? strcmp(scheme, "never") != 0 : add_prefix_space;
    return status_ok();
}

static Status parse_step(DecoderPlan *plan, JsonPlace place, const json_t *value, int depth)
{
    const char *type;
    TRY(json_get_string(place, value, "type", JSON_REQUIRED, &type, NULL));
    if (strcmp(type, "Sequence") == 0 && depth < DEPTH_MAX) {
        const json_t *list;
        TRY(json_get_array(place, value, "decoders", JSON_REQUIRED, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(parse_step(plan, place, json_array_get(list, i), depth + 1));
        return status_ok();
    }
    if (strcmp(type, "ByteLevel") == 0)
        plan->decoder->byte_level = true;
    else if (strcmp(type, "ByteFallback") == 0)
        plan->decoder->byte_fallback = true;
    else if (strcmp(type, "Fuse") == 0)
        plan->decoder->fused = true;
    else if (strcmp(type, "Replace") == 0)
        return parse_replace(plan, place, value);
    else if (strcmp(type, "Strip") == 0)
        return parse_strip(plan, place, value);
    else if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(plan, place, value);
    else
        return json_error(place, "decoder \"%s\" is not supported", type);
    return status_ok();
}

/* <0xE2> -> 0xE2; -1: not such a token. */
static int byte_of_token(const char *text, size_t size)
{
    static const char digits[] = "0123456789ABCDEF0123456789abcdef";
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || !text[3] || !text[4])
        return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)((high - digits) % 16 * 16 + (low - digits) % 16) : -1;
}

/* A byte-level token's bytes; a token with a character outside the byte alphabet stands as it is. */
static void append_byte_level(Text *out, const char *text, size_t size)
{
    size_t start = out->size;
    for (size_t at = 0, length; at < size; at += length) {
        int byte = bytelevel_byte(utf8_char(text + at, &length));
        if (byte < 0) {
            out->size = start;
            text_append(out, text, size);
            return;
        }
        char letter = (char)byte;
        text_append(out, &letter, 1);
    }
}

static void append_replaced(Text *out, const DecoderPlan *plan, const char *text, size_t size)
{
    Text now = {0}, next = {0};
    text_append(&now, text, size);
    for (int r = 0; r < plan->count; r++) {
        const Replacement *replacement = &plan->replacements[r];
        text_clear(&next);
        for (size_t at = 0; at < now.size;) {
            if (now.size - at >= replacement->from_size &&
                memcmp(now.bytes + at, replacement->from, replacement->from_size) == 0) {
                text_append(&next, replacement->to, replacement->to_size);
                at += replacement->from_size;
            } else {
                text_append(&next, now.bytes + at++, 1);
            }
        }
        Text old = now;
        now = next;
        next = old;
    }
    text_append(out, text_string(&now), now.size);
    text_free(&now);
    text_free(&next);
}

Status decoder_parse(Decoder *decoder, JsonPlace place, const json_t *value, const Bpe *bpe)
{
    DecoderPlan plan = {.decoder = decoder};
    if (!value || json_is_null(value))
        decoder->join_space = true;
    else
        TRY(parse_step(&plan, place, value, 0));
    if (decoder->byte_level && (plan.count || decoder->byte_fallback || decoder->strip))
        return json_error(place, "decoder: ByteLevel together with other steps is not supported");
    decoder->pieces = memory_new((size_t)bpe->size, sizeof *decoder->pieces);
    decoder->is_byte = memory_new((size_t)bpe->size, sizeof *decoder->is_byte);
    for (int32_t id = 0; id < bpe->size; id++) {
        size_t start = decoder->blob.size;
        Piece piece = bpe->pieces[id];
        if (piece.offset != UINT32_MAX) {
            const char *text = bpe->blob.bytes + piece.offset;
            int byte = decoder->byte_fallback ? byte_of_token(text, piece.size) : -1;
            char letter = (char)byte;
            decoder->is_byte[id] = byte >= 0;
            if (byte >= 0)
                text_append(&decoder->blob, &letter, 1);
            else if (decoder->byte_level)
                append_byte_level(&decoder->blob, text, piece.size);
            else
                append_replaced(&decoder->blob, &plan, text, piece.size);
        }
        if (decoder->blob.size >= UINT32_MAX)
            return json_error(place, "decoder: the tokens' texts together are too long");
        decoder->pieces[id] = (Piece){(uint32_t)start, (uint32_t)(decoder->blob.size - start)};
    }
    return status_ok();
}

void decoder_free(Decoder *decoder)
{
    text_free(&decoder->blob);
    memory_free(&decoder->pieces);
    memory_free(&decoder->is_byte);
}

/* --- Streaming ---------------------------------------------------------------------------------------------------*/

/* How far bytes[0, size) go as one character: its length if whole (*whole), else the length of the longest prefix that
 * some character starts with (at least 1). That prefix being all of `size` means: more bytes may complete it. */
static size_t scan_char(const unsigned char *bytes, size_t size, bool *whole)
{
    unsigned char lead = bytes[0];
    size_t need = lead < 0x80 ? 1 : lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) == 0xe0 ? 3 : 4;
    *whole = lead < 0x80;
    if (lead < 0x80 || lead < 0xc2 || lead > 0xf4)
        return 1;
    unsigned char low = 0x80, high = 0xbf; /* of the second byte (Unicode standard, table 3-7) */
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    size_t length = 1;
    while (length < need && length < size && bytes[length] >= low && bytes[length] <= high) {
        length++;
        low = 0x80;
        high = 0xbf;
    }
    *whole = length == need;
    return length;
}

static bool may_continue(const unsigned char *bytes, size_t size)
{
    return bytes[0] >= 0xc2 && bytes[0] <= 0xf4 &&
           size < (size_t)(bytes[0] <= 0xdf            ? 2
                           : (bytes[0] & 0xf0) == 0xe0 ? 3
                                                       : 4);
}

size_t utf8_check(const char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size) {
        bool whole;
        size_t length = scan_char((const unsigned char *)bytes + at, size - at, &whole);
        if (!whole)
            return at;
        at += length;
    }
    return size;
}

uint32_t utf8_char(const char *text, size_t *length)
{
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *length = 2;
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    }
    if (b[0] < 0xf0) {
        *length = 3;
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    }
    *length = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

void utf8_append(Text *text, uint32_t c)
{
    char bytes[4];
    size_t size = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size; i-- > 1; c >>= 6)
        bytes[i] = (char)(0x80 | (c & 0x3f));
    bytes[0] = (char)(lead[size] | c);
    text_append(text, bytes, size);
}

/* Text that is certain, less what is to be stripped from the start. */
static void emit(TokenizerStream *stream, const char *bytes, size_t size, Text *out)
{
    while (size && stream->strip > 0) {
        if (*bytes != stream->tokenizer->decoder.strip) {
            stream->strip = 0;
            break;
        }
        stream->strip--;
        bytes++;
        size--;
    }
    if (size)
        text_append(out, bytes, size);
}

/* Takes what is complete out of the held bytes; at the end all of it. */
static void flush_bytes(TokenizerStream *stream, bool at_end, Text *out)
{
    const char *bytes = text_string(&stream->held);
    size_t size = stream->held.size, at = 0;
    while (at < size) {
        bool whole;
        const unsigned char *from = (const unsigned char *)bytes + at;
        size_t length = scan_char(from, size - at, &whole);
        if (!whole && !at_end && length == size - at && may_continue(from, length))
            break;
        emit(stream, whole ? bytes + at : REPLACEMENT, whole ? length : 3, out);
        at += length;
    }
    if (at) {
        memmove(stream->held.bytes, stream->held.bytes + at, size - at);
        stream->held.size = size - at;
    }
}

/* A run of byte tokens has ended: text if it is UTF-8 as a whole, else one U+FFFD per byte (as Hugging Face does). */
static void flush_run(TokenizerStream *stream, Text *out)
{
    if (!stream->in_bytes)
        return;
    const char *bytes = text_string(&stream->held);
    size_t size = stream->held.size;
    if (utf8_check(bytes, size) == size)
        emit(stream, bytes, size, out);
    else
        for (size_t i = 0; i < size; i++)
            emit(stream, REPLACEMENT, 3, out);
    text_clear(&stream->held);
    stream->in_bytes = false;
}

void tokenizer_stream_start(TokenizerStream *stream, const Tokenizer *tokenizer, unsigned flags)
{
    *stream = (TokenizerStream){.tokenizer = tokenizer, .flags = flags};
    const Decoder *decoder = &tokenizer->decoder;
    if (!(flags & TOKENIZER_CONTINUE))
        stream->strip = decoder->strip_first_token ? INT32_MAX : decoder->strip_count;
}

Status tokenizer_stream_push(TokenizerStream *stream, int32_t id, Text *out)
{
    const Tokenizer *tokenizer = stream->tokenizer;
    const Decoder *decoder = &tokenizer->decoder;
    if (id < 0 || id >= tokenizer->bpe.size)
        return status_error(STATUS_INPUT, "%s: token %d is outside of the vocabulary of %d", tokenizer->name, id,
                            tokenizer->bpe.size);
    if ((stream->flags & TOKENIZER_SKIP_SPECIAL) && tokenizer->special[id])
        return status_ok();
    Piece piece = decoder->pieces[id];
    const char *bytes = decoder->blob.bytes + piece.offset;
    if (decoder->join_space && (stream->started || (stream->flags & TOKENIZER_CONTINUE)))
        emit(stream, " ", 1, out);
    if (decoder->byte_level) {
        text_append(&stream->held, bytes, piece.size);
        flush_bytes(stream, false, out);
    } else if (decoder->is_byte[id]) {
        text_append(&stream->held, bytes, piece.size);
        stream->in_bytes = true;
    } else {
        flush_run(stream, out);
        emit(stream, bytes, piece.size, out);
    }
    if (decoder->strip_first_token && !stream->in_bytes)
        stream->strip = 0;
    stream->started = true;
    return status_ok();
}

static void flush_rest(TokenizerStream *stream, Text *out)
{
    if (stream->in_bytes)
        flush_run(stream, out);
    else
        flush_bytes(stream, true, out);
}

void tokenizer_stream_finish(TokenizerStream *stream, Text *out)
{
    if (out)
        flush_rest(stream, out);
    text_free(&stream->held);
    stream->in_bytes = stream->started = false;
}

Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, unsigned flags, Text *out)
{
    TokenizerStream stream;
    tokenizer_stream_start(&stream, tokenizer, flags);
    /* No more can be held than all pieces together. */
    size_t before = out->size, most = 1;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < tokenizer->bpe.size)
            most += tokenizer->decoder.pieces[ids[i]].size;
    char *held = memory_borrow(most, 1);
    stream.held = (Text){held, 0, most};
    Status status = status_ok();
    for (int64_t i = 0; i < count && !status_failed(status); i++)
        status = tokenizer_stream_push(&stream, ids[i], out);
    flush_rest(&stream, out);
    memory_return(&held);
    if (status_failed(status) && out->bytes) {
        out->size = before;
        out->bytes[before] = 0;
    }
    return status;
}
