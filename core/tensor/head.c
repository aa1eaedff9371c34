/* head.c -- the vocabulary head: product, softmax statistics, loss and gradients, one chunk of rows after another.
 *
 * Why:   rows x vocabulary is by far the largest array of a language model; here only one chunk of it ever exists.
 * How:   a chunk is a function of the shapes alone, so scoring (head_logprobs) and training (head_policy, head_nll)
 *        run the very same products on the same rows, and equal weights give equal bits: the first PPO ratio is 1. */
#include "core/tensor/forward.h"

#include "core/tensor/tape_record.h"

/* One chunk of logits fills at most CHUNK_BYTES, so that it is still in cache when its gradient is made, but holds no
 * fewer than CHUNK_ROWS_MIN rows, below which products spend their time on reading the weight and its gradient. */
static const int64_t CHUNK_BYTES = (int64_t)4 << 20;
enum { CHUNK_ROWS_MIN = 256 };

static int64_t chunk_rows(int64_t stored)
{
    int64_t rows = CHUNK_BYTES / (stored * (int64_t)sizeof(float));
    return rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows;
}

static Tensor head_check(const VocabularyHead *head, Tensor hidden)
{
    DType dtype = hidden.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    tensor_check(hidden, "head hidden", dtype, -1, -1, -1);
    tensor_check(head->weight.value, "head weight (vocab, width)", dtype, 2, -1, tensor_width(hidden));
    REQUIRE(head->vocab > 0 && head->vocab <= head->weight.value.shape[0], "%lld ids for a head of %lld rows",
            (long long)head->vocab, (long long)head->weight.value.shape[0]);
    return tensor_reshape2(hidden, tensor_rows_count(hidden), tensor_width(hidden));
}

static void check_rows(Tensor x, const char *what, DType dtype, int64_t rows)
{
    tensor_check(x, what, dtype, -1, -1, -1);
    REQUIRE(tensor_count(x) == rows, "%s: %lld rows are wanted, %lld were given", what, (long long)rows,
            (long long)tensor_count(x));
}

static void product(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor logits)
{
    int64_t width = hidden.shape[1], stored = head->weight.value.shape[0];
    GemmArgs args = {.dtype = hidden.dtype, /* logits are F32 always */
                     .transpose_b = true,
                     .m = hidden.shape[0],
                     .n = stored,
                     .k = width,
                     .alpha = 1,
                     .a = hidden.data,
                     .lda = width,
                     .b = head->weight.value.data,
                     .ldb = width,
                     .c = logits.data,
                     .ldc = stored};
    if (args.m)
        device_run(exec->device, OP_gemm, &args);
}

/* A chunk's dlogits -> hidden's gradient (where wanted) and the weight's (unless frozen). */
static void product_backward(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor dlogits, void *dhidden,
                             bool first)
{
    int64_t rows = hidden.shape[0], width = hidden.shape[1], stored = head->weight.value.shape[0];
    if (dhidden) {
        GemmArgs args = {.dtype = hidden.dtype,
                         .c_dtype = hidden.dtype,
                         .m = rows,
                         .n = width,
                         .k = stored,
                         .alpha = 1,
                         .beta = first ? 0.0f : 1.0f,
                         .a = dlogits.data,
                         .lda = stored,
                         .b = head->weight.value.data,
                         .ldb = width,
                         .c = dhidden,
                         .ldc = width};
        device_run(exec->device, OP_gemm, &args);
    }
    if (tensor_present(head->weight.grad)) {
        GemmArgs args = {.dtype = hidden.dtype,
                         .transpose_a = true,
                         .m = stored,
                         .n = width,
                         .k = rows,
                         .alpha = 1,
                         .beta = 1,
                         .a = dlogits.data,
                         .lda = stored,
                         .b = hidden.data,
                         .ldb = width,
                         .c = head->weight.grad.data,
                         .ldc = width};
        device_run(exec->device, OP_gemm, &args);
    }
}

/* One visit of a chunk of rows. */
typedef struct Chunk {
    int64_t from, rows;
    float *logprob, *entropy;   /* (rows) made by the statistics; entropy NULL: not wanted */
    float *dlogprob, *dentropy; /* (rows) to be made by the loss; NULL: no backward, no entropy term */
} Chunk;

/* What a loss does with the log-probs of a chunk; NULL: nothing. */
typedef void (*ChunkLoss)(Exec *exec, const void *terms, const Chunk *chunk);

typedef struct Visit {
    ChunkLoss loss;
    const void *terms;
    bool entropy;                    /* compute it */
    bool entropy_gradient;           /* and the loss depends on it */
    Tensor logprob_out, entropy_out; /* (rows) or absent */
} Visit;

static float *rows_of(Exec *exec, Tensor whole, int64_t from, int64_t rows)
{
    return tensor_present(whole) ? tensor_range(whole, from, rows).data : tensor_new1(exec->step, DTYPE_F32, rows).data;
}

static void visit_chunks(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, const Visit *visit)
{
    hidden = head_check(head, hidden);
    int64_t rows = hidden.shape[0], width = hidden.shape[1], stored = head->weight.value.shape[0];
    check_rows(target, "head target", DTYPE_I32, rows);
    if (tensor_present(visit->logprob_out))
        check_rows(visit->logprob_out, "head logprob", DTYPE_F32, rows);
    if (tensor_present(visit->entropy_out))
        check_rows(visit->entropy_out, "head entropy", DTYPE_F32, rows);
    bool backward = visit->loss && tape_wants(exec, hidden, &head->weight, NULL);
    bool first = false;
    char *dhidden = backward ? tape_gradient_at(exec, hidden, &first) : NULL;

    int64_t step = chunk_rows(stored);
    for (int64_t from = 0; from < rows; from += step) {
        int64_t count = rows - from < step ? rows - from : step;
        size_t mark = arena_mark(exec->step);
        Tensor part = tensor_rows(hidden, from, count);
        Tensor logits = tensor_new2(exec->step, DTYPE_F32, count, stored);
        product(exec, head, part, logits);

        Chunk chunk = {.from = from, .rows = count, .logprob = rows_of(exec, visit->logprob_out, from, count)};
        if (visit->entropy)
            chunk.entropy = rows_of(exec, visit->entropy_out, from, count);
        LogitsStatsArgs stats = {.logits = logits.data,
                                 .target = tensor_range(target, from, count).data,
                                 .lse = tensor_new1(exec->step, DTYPE_F32, count).data,
                                 .logprob = chunk.logprob,
                                 .entropy = chunk.entropy,
                                 .rows = count,
                                 .vocab = head->vocab,
                                 .ld = stored,
                                 .temperature = head->temperature};
        device_run(exec->device, OP_logits_stats, &stats);

        if (backward) {
            chunk.dlogprob = tensor_new1(exec->step, DTYPE_F32, count).data;
            chunk.dentropy = visit->entropy_gradient ? tensor_new1(exec->step, DTYPE_F32, count).data : NULL;
        }
        if (visit->loss)
            visit->loss(exec, visit->terms, &chunk);
        if (backward) {
            /* In place where the types allow. */
            Tensor dlogits = hidden.dtype == DTYPE_F32 ? logits : tensor_new2(exec->step, hidden.dtype, count, stored);
            LogitsBackwardArgs args = {.dtype = hidden.dtype,
                                       .logits = logits.data,
                                       .dlogits = dlogits.data,
                                       .target = stats.target,
                                       .lse = stats.lse,
                                       .entropy = chunk.entropy,
                                       .dlogprob = chunk.dlogprob,
                                       .dentropy = chunk.dentropy,
                                       .rows = count,
                                       .vocab = head->vocab,
                                       .ld = stored,
                                       .temperature = head->temperature};
            device_run(exec->device, OP_logits_backward, &args);
            void *dpart = dhidden ? dhidden + (size_t)(from * width) * dtype_size(hidden.dtype) : NULL;
            product_backward(exec, head, part, dlogits, dpart, first);
        }
        arena_rewind(exec->step, mark);
    }
}

void head_logprobs(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, Tensor logprob, Tensor entropy)
{
    Visit visit = {.entropy = tensor_present(entropy), .logprob_out = logprob, .entropy_out = entropy};
    visit_chunks(exec, head, hidden, target, &visit);
}

typedef struct NllTerms {
    Tensor weight, stats;
} NllTerms;

static void nll_chunk(Exec *exec, const void *terms, const Chunk *chunk)
{
    const NllTerms *nll = terms;
    NllLossArgs args = {.logprob = chunk->logprob,
                        .weight = tensor_range(nll->weight, chunk->from, chunk->rows).data,
                        .dlogprob = chunk->dlogprob,
                        .rows = chunk->rows,
                        .stats = nll->stats.data};
    device_run(exec->device, OP_nll_loss, &args);
}

void head_nll(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, Tensor weight, Tensor logprob,
              Tensor stats)
{
    check_rows(weight, "nll weight", DTYPE_F32, tensor_rows_count(hidden));
    check_rows(stats, "nll stats", DTYPE_F64, NLL_STATS);
    NllTerms terms = {weight, stats};
    Visit visit = {.loss = nll_chunk, .terms = &terms, .logprob_out = logprob};
    visit_chunks(exec, head, hidden, target, &visit);
}

typedef struct PolicyChunkTerms {
    const PolicyTerms *policy;
    Tensor stats;
} PolicyChunkTerms;

static void policy_chunk(Exec *exec, const void *terms, const Chunk *chunk)
{
    const PolicyTerms *policy = ((const PolicyChunkTerms *)terms)->policy;
    PolicyLossArgs args = {
        .logprob = chunk->logprob,
        .old_logprob = tensor_range(policy->old_logprob, chunk->from, chunk->rows).data,
        .advantage = tensor_range(policy->advantage, chunk->from, chunk->rows).data,
        .entropy = chunk->entropy,
        .weight = tensor_range(policy->weight, chunk->from, chunk->rows).data,
        .dlogprob = chunk->dlogprob,
        .dentropy = chunk->dentropy,
        .rows = chunk->rows,
        .clip_low = policy->clip_low,
        .clip_high = policy->clip_high,
        .entropy_coefficient = policy->entropy_coefficient,
        .stats = ((const PolicyChunkTerms *)terms)->stats.data,
    };
    device_run(exec->device, OP_policy_loss, &args);
}

void head_policy(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, const PolicyTerms *terms,
                 Tensor logprob, Tensor stats)
{
    int64_t rows = tensor_rows_count(hidden);
    check_rows(terms->old_logprob, "old logprob", DTYPE_F32, rows);
    check_rows(terms->advantage, "advantage", DTYPE_F32, rows);
    check_rows(terms->weight, "policy weight", DTYPE_F32, rows);
    check_rows(stats, "policy stats", DTYPE_F64, POLICY_STATS);
    PolicyChunkTerms both = {terms, stats};
    /* Entropy is always measured, since it is logged; it has a gradient only where the loss counts it. */
    Visit visit = {.loss = policy_chunk,
                   .terms = &both,
                   .entropy = true,
                   .entropy_gradient = terms->entropy_coefficient != 0,
                   .logprob_out = logprob};
    visit_chunks(exec, head, hidden, target, &visit);
}

Tensor head_logits(Exec *exec, const VocabularyHead *head, Tensor hidden)
{
    hidden = head_check(head, hidden);
    Tensor logits = tensor_new2(exec->step, DTYPE_F32, hidden.shape[0], head->weight.value.shape[0]);
    product(exec, head, hidden, logits);
    return logits;
}
