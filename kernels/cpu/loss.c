/* loss.c -- losses over scalars: one or a few numbers per token or answer, so they run on one thread, in order, in
 * double; formulas and their papers stand at the Args in ops.h. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

void KERNEL(nll_loss)(Device *device, const NllLossArgs *args)
{
    (void)device;
    double loss = 0.0, weight = 0.0;
    for (int64_t i = 0; i < args->rows; i++) {
        /* Unweighted rows (a prompt's tokens) may hold anything, and add nothing. */
        if (args->weight[i] != 0.0f)
            loss -= (double)args->weight[i] * (double)args->logprob[i];
        weight += (double)args->weight[i];
        if (args->dlogprob)
            args->dlogprob[i] = -args->weight[i];
    }
    args->stats[NLL_LOSS] += loss;
    args->stats[NLL_WEIGHT] += weight;
}

void KERNEL(policy_loss)(Device *device, const PolicyLossArgs *args)
{
    (void)device;
    double sum[POLICY_STATS] = {0};
    for (int64_t i = 0; i < args->rows; i++) {
        float weight = args->weight[i], advantage = args->advantage[i];
        float d = args->logprob[i] - args->old_logprob[i];
        float bounded = d > 20.0f ? 20.0f : d < -20.0f ? -20.0f : d;
        float ratio = expf(bounded);
        float low = 1.0f - args->clip_low, high = 1.0f + args->clip_high;
        float limited = ratio < low ? low : ratio > high ? high : ratio;
        float plain = -advantage * ratio, clipped = -advantage * limited;
        bool takes_clipped = clipped > plain;
        if (args->dlogprob)
            args->dlogprob[i] = takes_clipped || bounded != d ? (d != d ? d : 0.0f) : weight * plain;
        if (args->dentropy)
            args->dentropy[i] = -weight * args->entropy_coefficient;
        sum[POLICY_RATIO_NOT_ONE] += ratio != 1.0f;
        if (weight == 0.0f)
            continue;
        double w = weight, surrogate = takes_clipped ? clipped : plain;
        sum[POLICY_LOSS] += w * surrogate;
        if (args->entropy)
            sum[POLICY_ENTROPY] += w * (double)args->entropy[i];
        sum[POLICY_CLIPPED] += takes_clipped ? w : 0.0;
        sum[POLICY_APPROX_KL] += w * 0.5 * (double)d * (double)d;
        sum[POLICY_KL_K3] += w * (expm1((double)d) - (double)d);
        sum[POLICY_RATIO] += w * (double)ratio;
        sum[POLICY_WEIGHT] += w;
    }
    for (int k = 0; k < POLICY_STATS; k++)
        args->stats[k] += sum[k];
}

void KERNEL(value_loss)(Device *device, const ValueLossArgs *args)
{
    (void)device;
    double sum[VALUE_STATS] = {0};
    for (int64_t i = 0; i < args->rows; i++) {
        double weight = args->weight[i], value = args->value[i], target = args->returns[i];
        double error = value - target, square = error * error;
        bool takes_clipped = false;
        double largest = square;
        if (args->clip > 0.0f) {
            double old = args->old_value[i], clip = args->clip, move = value - old;
            double limited = old + (move > clip ? clip : move < -clip ? -clip : move) - target;
            takes_clipped = limited * limited > square && (move > clip || move < -clip);
            if (takes_clipped)
                largest = limited * limited;
        }
        if (args->dvalue)
            args->dvalue[i] = takes_clipped ? 0.0f : (float)((double)args->coefficient * weight * error);
        if (weight == 0.0)
            continue;
        sum[VALUE_LOSS] += (double)args->coefficient * weight * 0.5 * largest;
        sum[VALUE_CLIPPED] += takes_clipped ? weight : 0.0;
        sum[VALUE_SQUARED_ERROR] += weight * square;
        sum[VALUE_WEIGHT] += weight;
    }
    for (int k = 0; k < VALUE_STATS; k++)
        args->stats[k] += sum[k];
}

static double softplus(double x)
{
    return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
}
static double sigmoid(double x)
{
    return x >= 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

typedef struct RankGroup {
    const float *reward, *strength;
    double *dreward; /* (count), zero */
    int64_t count;
} RankGroup;

/* Counts the pairs of unequal strength and how many are ranked as told; returns how many there are. */
static int64_t rank_pairs(const RankGroup *group, double *sum)
{
    int64_t pairs = 0;
    for (int64_t i = 0; i < group->count; i++)
        for (int64_t j = 0; j < group->count; j++) {
            if (!(group->strength[i] > group->strength[j]))
                continue;
            pairs++;
            double margin = (double)group->reward[i] - (double)group->reward[j];
            sum[RANK_CORRECT] += margin > 0.0 ? 1.0 : margin == 0.0 ? 0.5 : 0.0;
            sum[RANK_MARGIN] += margin;
        }
    sum[RANK_PAIRS] += (double)pairs;
    return pairs;
}

static double rank_all_pairs(const RankGroup *group, int64_t pairs, double margin_scale)
{
    double loss = 0.0;
    for (int64_t i = 0; i < group->count; i++)
        for (int64_t j = 0; j < group->count; j++) {
            if (!(group->strength[i] > group->strength[j]))
                continue;
            double x = (double)group->reward[i] - (double)group->reward[j] -
                       margin_scale * ((double)group->strength[i] - (double)group->strength[j]);
            loss += softplus(-x) / (double)pairs;
            double slope = -sigmoid(-x) / (double)pairs;
            group->dreward[i] += slope;
            group->dreward[j] -= slope;
        }
    return loss;
}

/* Place i holds an answer that comes no later than j in order of strength; equals go in order of index. */
static bool rank_before(const RankGroup *group, int64_t i, int64_t j)
{
    return group->strength[i] > group->strength[j] || (group->strength[i] == group->strength[j] && i <= j);
}

static double rank_plackett_luce(const RankGroup *group)
{
    if (group->count < 2)
        return 0.0;
    double loss = 0.0, share = 1.0 / (double)(group->count - 1);
    for (int64_t i = 0; i < group->count; i++) {
        double largest = group->reward[i], total = 0.0;
        for (int64_t j = 0; j < group->count; j++)
            if (rank_before(group, i, j) && (double)group->reward[j] > largest)
                largest = group->reward[j];
        for (int64_t j = 0; j < group->count; j++)
            if (rank_before(group, i, j))
                total += exp((double)group->reward[j] - largest);
        loss -= share * ((double)group->reward[i] - largest - log(total));
        group->dreward[i] -= share;
        for (int64_t j = 0; j < group->count; j++)
            if (rank_before(group, i, j))
                group->dreward[j] += share * exp((double)group->reward[j] - largest) / total;
    }
    return loss;
}

void KERNEL(rank_loss)(Device *device, const RankLossArgs *args)
{
    double sum[RANK_STATS] = {0};
    double *dreward = arena_alloc(&device->scratch, sizeof(double) * (size_t)(args->answers + 1));
    if (!device->backend->computes)
        return;
    for (int64_t i = 0; i < args->answers; i++)
        dreward[i] = 0.0;
    for (int64_t g = 0; g < args->groups; g++) {
        int64_t from = args->start[g], to = args->start[g + 1];
        REQUIRE(from >= 0 && from <= to && to <= args->answers, "group %lld is [%lld, %lld) of %lld answers",
                (long long)g, (long long)from, (long long)to, (long long)args->answers);
        RankGroup group = {args->reward + from, args->strength + from, dreward + from, to - from};
        double weight = args->weight[g];
        int64_t pairs = rank_pairs(&group, sum);
        double loss = args->kind == RANK_PLACKETT_LUCE ? rank_plackett_luce(&group)
                                                       : rank_all_pairs(&group, pairs, (double)args->margin_scale);
        sum[RANK_LOSS] += weight * loss;
        sum[RANK_WEIGHT] += weight;
        for (int64_t i = from; i < to; i++) {
            double reward = args->reward[i];
            sum[RANK_REWARD] += reward;
            sum[RANK_REWARD_SQUARED] += reward * reward;
            sum[RANK_ANSWERS] += 1.0;
            if (args->dreward)
                args->dreward[i] = (float)(weight * dreward[i]);
        }
    }
    for (int k = 0; k < RANK_STATS; k++)
        args->stats[k] += sum[k];
}
