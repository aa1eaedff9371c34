/* loss.cu -- losses over scalars: one or a few numbers per token or answer. Formulas and their papers stand at the Args in ops.h.
 *
 * Rows are computed as on the CPU, operation by operation; what is summed is summed in double, by fixed blocks (partial.h). */
#include "kernels/cuda/partial.h"

__global__ void __launch_bounds__(PARTIAL_THREADS) nll_rows(NllLossArgs args, double *partial)
{
    double sum[NLL_STATS] = {};
#pragma unroll
    for (int k = 0; k < PARTIAL_ROWS; k += PARTIAL_THREADS) {
        const int64_t i = (int64_t)blockIdx.x * PARTIAL_ROWS + k + threadIdx.x;
        if (i >= args.rows)
            continue;
        const float weight = args.weight[i];
        /* Unweighted rows (a prompt's tokens) may hold anything, and add nothing. */
        if (weight != 0.0f)
            sum[NLL_LOSS] -= (double)weight * (double)args.logprob[i];
        sum[NLL_WEIGHT] += (double)weight;
        if (args.dlogprob)
            args.dlogprob[i] = -weight;
    }
    partial_put<NLL_STATS, true>(sum, partial, args.stats);
}

__global__ void __launch_bounds__(PARTIAL_THREADS) policy_rows(PolicyLossArgs args, double *partial)
{
    double sum[POLICY_STATS] = {};
    const float low = 1.0f - args.clip_low, high = 1.0f + args.clip_high;
#pragma unroll 1
    for (int k = 0; k < PARTIAL_ROWS; k += PARTIAL_THREADS) {
        const int64_t i = (int64_t)blockIdx.x * PARTIAL_ROWS + k + threadIdx.x;
        if (i >= args.rows)
            break;
        const float weight = args.weight[i], advantage = args.advantage[i];
        const float d = args.logprob[i] - args.old_logprob[i];
        const float bounded = d > 20.0f ? 20.0f : d < -20.0f ? -20.0f : d;
        const float ratio = expf(bounded); /* exp(0) is 1 to the bit, here as there */
        const float limited = ratio < low ? low : ratio > high ? high : ratio;
        const float plain = -advantage * ratio, clipped = -advantage * limited;
        const bool takes_clipped = clipped > plain;
        if (args.dlogprob)
            args.dlogprob[i] = takes_clipped || bounded != d ? (d != d ? d : 0.0f) : weight * plain;
        if (args.dentropy)
            args.dentropy[i] = -weight * args.entropy_coefficient;
        sum[POLICY_RATIO_NOT_ONE] += ratio != 1.0f ? 1.0 : 0.0;
        if (weight == 0.0f)
            continue;
        const double w = (double)weight, move = (double)d;
        sum[POLICY_LOSS] += w * (double)(takes_clipped ? clipped : plain);
        if (args.entropy)
            sum[POLICY_ENTROPY] += w * (double)args.entropy[i];
        sum[POLICY_CLIPPED] += takes_clipped ? w : 0.0;
        sum[POLICY_APPROX_KL] += w * 0.5 * move * move;
        sum[POLICY_KL_K3] += w * (expm1(move) - move);
        sum[POLICY_RATIO] += w * (double)ratio;
        sum[POLICY_WEIGHT] += w;
    }
    partial_put<POLICY_STATS, true>(sum, partial, args.stats);
}

__global__ void __launch_bounds__(PARTIAL_THREADS) value_rows(ValueLossArgs args, double *partial)
{
    double sum[VALUE_STATS] = {};
    const double coefficient = (double)args.coefficient, clip = (double)args.clip;
#pragma unroll 1
    for (int k = 0; k < PARTIAL_ROWS; k += PARTIAL_THREADS) {
        const int64_t i = (int64_t)blockIdx.x * PARTIAL_ROWS + k + threadIdx.x;
        if (i >= args.rows)
            break;
        const double weight = (double)args.weight[i], value = (double)args.value[i], target = (double)args.returns[i];
        const double error = value - target, square = error * error;
        bool takes_clipped = false;
        double largest = square;
        if (args.clip > 0.0f) {
            const double old = (double)args.old_value[i], move = value - old;
            const double limited = old + (move > clip ? clip : move < -clip ? -clip : move) - target;
            takes_clipped = limited * limited > square && (move > clip || move < -clip);
            if (takes_clipped)
                largest = limited * limited;
        }
        if (args.dvalue)
            args.dvalue[i] = takes_clipped ? 0.0f : (float)(coefficient * weight * error);
        if (weight == 0.0)
            continue;
        sum[VALUE_LOSS] += coefficient * weight * 0.5 * largest;
        sum[VALUE_CLIPPED] += takes_clipped ? weight : 0.0;
        sum[VALUE_SQUARED_ERROR] += weight * square;
        sum[VALUE_WEIGHT] += weight;
    }
    partial_put<VALUE_STATS, true>(sum, partial, args.stats);
}

/* `rows` kernel over the rows, and the join of its blocks where there are several. */
#define LOSS_RUN(device, rows_kernel, COUNT, args)                                                                     \
    do {                                                                                                               \
        const int64_t blocks_ = ceil_div((args)->rows, PARTIAL_ROWS);                                                  \
        double *partial_ = partial_alloc(device, blocks_, COUNT);                                                      \
        if (!(device)->backend->computes || blocks_ == 0)                                                              \
            return;                                                                                                    \
        CUDA_LAUNCH(cuda_of(device), rows_kernel, (unsigned)blocks_, PARTIAL_THREADS, 0, *(args), partial_);           \
        if (blocks_ > 1)                                                                                               \
            partial_finish<COUNT, true>(cuda_of(device), partial_, blocks_, (args)->stats);                            \
    } while (0)

void cuda_nll_loss(Device *device, const NllLossArgs *args)
{
    LOSS_RUN(device, nll_rows, NLL_STATS, args);
}
void cuda_policy_loss(Device *device, const PolicyLossArgs *args)
{
    LOSS_RUN(device, policy_rows, POLICY_STATS, args);
}
void cuda_value_loss(Device *device, const ValueLossArgs *args)
{
    LOSS_RUN(device, value_rows, VALUE_STATS, args);
}

/* --- Ranking: a warp for each group --- */

__device__ static inline double softplus(double x)
{
    return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
}
__device__ static inline double sigmoid(double x)
{
    return x >= 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

typedef struct RankGroup {
    const float *reward, *strength;
    float *dreward;  /* (count) or NULL */
    double *log_sum; /* (count) scratch of this group */
    int count, lane;
    double weight;
} RankGroup;

/* Counts the pairs of unequal strength and how many are ranked as told; every lane returns how many there are. */
__device__ static inline double rank_pairs(const RankGroup *group, double *sum)
{
    double pairs = 0.0;
    for (int i = group->lane; i < group->count; i += WARP)
        for (int j = 0; j < group->count; j++) {
            if (!(group->strength[i] > group->strength[j]))
                continue;
            pairs += 1.0;
            double margin = (double)group->reward[i] - (double)group->reward[j];
            sum[RANK_CORRECT] += margin > 0.0 ? 1.0 : margin == 0.0 ? 0.5 : 0.0;
            sum[RANK_MARGIN] += margin;
        }
    sum[RANK_PAIRS] = pairs;
    return warp_sum(pairs);
}

/* An answer gathers its slope from its own pairs: nothing is scattered. */
__device__ static inline double rank_all_pairs(const RankGroup *group, double pairs, double margin_scale)
{
    double loss = 0.0;
    for (int i = group->lane; i < group->count; i += WARP) {
        double slope = 0.0;
        for (int j = 0; j < group->count; j++) {
            const double by = (double)group->strength[i] - (double)group->strength[j];
            if (!(by > 0.0 || by < 0.0))
                continue;
            /* of the pair's better over its worse */
            const double sign = by > 0.0 ? 1.0 : -1.0;
            const double x = sign * ((double)group->reward[i] - (double)group->reward[j]) - margin_scale * sign * by;
            if (by > 0.0)
                loss += softplus(-x) / pairs;
            slope -= sign * sigmoid(-x) / pairs;
        }
        if (group->dreward)
            group->dreward[i] = (float)(group->weight * slope);
    }
    return loss;
}

/* Place i holds an answer that comes no later than j in order of strength; equals go in order of index. */
__device__ static inline bool rank_before(const RankGroup *group, int i, int j)
{
    return group->strength[i] > group->strength[j] || (group->strength[i] == group->strength[j] && i <= j);
}

__device__ static inline double rank_plackett_luce(const RankGroup *group)
{
    const double share = group->count > 1 ? 1.0 / (double)(group->count - 1) : 0.0;
    double loss = 0.0;
    for (int i = group->lane; i < group->count; i += WARP) {
        double largest = (double)group->reward[i], total = 0.0;
        for (int j = 0; j < group->count; j++)
            if (rank_before(group, i, j))
                largest = fmax(largest, (double)group->reward[j]);
        for (int j = 0; j < group->count; j++)
            if (rank_before(group, i, j))
                total += exp((double)group->reward[j] - largest);
        group->log_sum[i] = largest + log(total);
        loss -= share * ((double)group->reward[i] - group->log_sum[i]);
    }
    __syncwarp();
    for (int j = group->lane; group->dreward && j < group->count; j += WARP) {
        double slope = -share;
        for (int i = 0; i < group->count; i++)
            if (rank_before(group, i, j))
                slope += share * exp((double)group->reward[j] - group->log_sum[i]);
        group->dreward[j] = (float)(group->weight * slope);
    }
    return loss;
}

/* A block of one warp per group; log_sum (answers), partial (groups, RANK_STATS). */
__global__ void __launch_bounds__(WARP) rank_groups(RankLossArgs args, double *log_sum, double *partial)
{
    const int64_t g = blockIdx.x, from = args.start[g], to = args.start[g + 1];
    KERNEL_REQUIRE(from >= 0 && from <= to && to <= args.answers);
    double sum[RANK_STATS] = {};
    RankGroup group = {args.reward + from,    args.strength + from, args.dreward ? args.dreward + from : NULL,
                       log_sum + from,        (int)(to - from),     (int)threadIdx.x,
                       (double)args.weight[g]};
    const double pairs = rank_pairs(&group, sum);
    const double loss = args.kind == RANK_PLACKETT_LUCE ? rank_plackett_luce(&group)
                                                        : rank_all_pairs(&group, pairs, (double)args.margin_scale);
    sum[RANK_LOSS] = group.weight * loss;
    sum[RANK_WEIGHT] = group.lane == 0 ? group.weight : 0.0;
    for (int i = group.lane; i < group.count; i += WARP) {
        const double reward = (double)group.reward[i];
        sum[RANK_REWARD] += reward;
        sum[RANK_REWARD_SQUARED] += reward * reward;
        sum[RANK_ANSWERS] += 1.0;
    }
#pragma unroll
    for (int k = 0; k < RANK_STATS; k++) {
        double total = warp_sum(sum[k]);
        if (group.lane == 0)
            partial[g * RANK_STATS + k] = total;
    }
}

void cuda_rank_loss(Device *device, const RankLossArgs *args)
{
    double *log_sum = (double *)arena_alloc(&device->scratch, sizeof(double) * (size_t)(args->answers + 1));
    double *partial = partial_alloc(device, args->groups, RANK_STATS);
    if (!device->backend->computes || args->groups == 0)
        return;
    CUDA_LAUNCH(cuda_of(device), rank_groups, (unsigned)args->groups, WARP, 0, *args, log_sum, partial);
    partial_finish<RANK_STATS, true>(cuda_of(device), partial, args->groups, args->stats);
}
