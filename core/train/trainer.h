/* trainer.h -- one optimizer step over a list of units, with bits that do not depend on who computes: SFT, reward model, actor and critic alike.
 *
 * A unit is a micro-batch whose content is a function of configuration and data. Units go to `lanes` contiguously; in a lane gradients
 * accumulate in order (walk.h); lanes join in a binary tree, first inside a rank, then across ranks (reduce.h), the last of it while the last unit's
 * backward goes on. Statistics are doubles per unit, gathered and added in unit order on every rank. Gradients live in the step arena, so trainers that
 * step in turn, and whatever else comes between steps, share that memory. Losses carry their global normaliser in the weights (known before the step), so accumulation changes nothing. */
#ifndef CORE_TRAIN_TRAINER_H
#define CORE_TRAIN_TRAINER_H

#include "core/train/optimizer.h"
#include "core/train/walk.h"

enum { TRAINER_STATS_MAX = 16 };

typedef struct Trainer {
    Model *model;
    Comm *comm;
    Optimizer optimizer;
    int64_t lanes;
    int width;      /* lanes under way at a time (walk.h) */
    Tensor *buffer; /* gradient buffers (count), in the step arena while a step lasts */
    int buffers;    /* log2(lanes / ranks) + width; fewer are in use where a step leaves lanes empty */
    Reduction reduction;
    Tape *tape;
} Trainer;

typedef struct StepReport {
    double stats[TRAINER_STATS_MAX]; /* sums over all units, in unit order */
    double grad_norm, lr;
} StepReport;

/* Lanes and ranks must satisfy shard_check. `arena` keeps the moments. */
Status trainer_open(Trainer *trainer, Model *model, Comm *comm, const OptimizerConfig *optimizer, int64_t lanes,
                    ReduceKind reduce, int64_t steps_total, Arena *arena);
void trainer_close(Trainer *trainer);
/* A step in two halves, so that several share one wait of the host for the device: `ask` asks the device for all of it and leaves its figures in `figures`
 * (trainer_figures doubles: this rank's statistics by unit, then the gradient's norm); `learn`, given them, fills the report. An error of any rank's unit changes
 * nothing and fails in `ask`, a gradient that is not finite likewise in `learn`, on every rank. */
int64_t trainer_figures(const Trainer *trainer, int64_t units, int stats_count); /* [local] */
Status trainer_ask(Trainer *trainer, Exec *exec, int64_t units, UnitFunction unit, void *context, int stats_count,
                   Tensor figures, StepReport *report); /* [collective] */
Status trainer_learn(Trainer *trainer, int64_t units, int stats_count, const double *figures,
                     StepReport *report); /* [collective] */
/* One optimizer step. An error of any rank's unit, or a gradient that is not finite, changes nothing and fails on every rank. [collective] */
Status trainer_step(Trainer *trainer, Exec *exec, int64_t units, UnitFunction unit, void *context, int stats_count,
                    StepReport *report);
/* The same walk without gradients or update: held-out loss, log-probs, values. Units of this rank are computed here; sums over all units, in their order, are
 * added to `stats`. `exec->tape` is ignored; a unit may set it, and takes it away again. `model`: the one by whose size the walk is chosen, that of the trainer
 * where bits are compared with a step's. No trainer needed. [collective] */
Status units_evaluate(Comm *comm, Exec *exec, const Model *model, int64_t lanes, int64_t units, UnitFunction unit,
                      void *context, int stats_count, double *stats);

#endif
