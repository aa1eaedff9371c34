/* params.h -- every parameter of a model in one flat buffer, every gradient in another; named views point in.
 *
 * Why:   AdamW is one kernel over a range, ZeRO a slice of a range, a checkpoint a walk over the views.
 * Layout: views in order of use; each starts on 256 bytes (gaps are zero and stay zero); matrices that decay first is NOT assumed: each
 *        view says whether it decays. Token tables are stored with vocab rounded up (arch.h); names are Tercet's own:
 *        embed.token, embed.position, layer.N.{attention_norm,mlp_norm}.{gain,bias}, layer.N.{qkv,projection,up,down}.{weight,bias},
 *        final_norm.{gain,bias}, head.weight (LM head, absent when tied), score.{weight,bias} (scalar head).
 *        All matrices are (out, in). `up` of a gated MLP is (2 ffn, width): gate rows, then up rows. */
#ifndef CORE_MODEL_PARAMS_H
#define CORE_MODEL_PARAMS_H

#include "core/model/arch.h"
#include "core/tensor/device.h"

typedef enum InitKind { INIT_ZERO, INIT_ONE, INIT_NORMAL } InitKind;

typedef struct ParamView {
    char name[64];
    int ndim;
    int64_t shape[2];    /* logical; ndim 1: shape[1] = 1 */
    int64_t rows_stored; /* shape[0], or vocab rounded up */
    int64_t offset;      /* in floats from the start of the flat buffer */
    int64_t count;       /* stored floats */
    int64_t beside;      /* offset among the views that layers read in F32 whatever flows; -1: a matrix of `narrow` */
    bool decay;          /* weight decay applies: matrices, not norms, biases or position tables */
    InitKind init;
    double deviation; /* of INIT_NORMAL */
} ParamView;

typedef enum HeadKind { HEAD_NONE, HEAD_LM, HEAD_SCALAR } HeadKind;

/* What a view is for: the decoder finds its parameters by kind and layer, files by name. In order of use. */
typedef enum ViewKind {
    VIEW_TOKEN,
    VIEW_POSITION,
    VIEW_ATTENTION_NORM_GAIN, /* from here to VIEW_DOWN_BIAS: one per layer */
    VIEW_ATTENTION_NORM_BIAS,
    VIEW_QKV_WEIGHT,
    VIEW_QKV_BIAS,
    VIEW_PROJECTION_WEIGHT,
    VIEW_PROJECTION_BIAS,
    VIEW_MLP_NORM_GAIN,
    VIEW_MLP_NORM_BIAS,
    VIEW_UP_WEIGHT,
    VIEW_UP_BIAS,
    VIEW_DOWN_WEIGHT,
    VIEW_DOWN_BIAS,
    VIEW_FINAL_NORM_GAIN,
    VIEW_FINAL_NORM_BIAS,
    VIEW_HEAD,
    VIEW_SCORE_WEIGHT,
    VIEW_SCORE_BIAS,
    VIEW_KINDS
} ViewKind;

typedef struct Params {
    ParamView *view;
    int views;
    int first[VIEW_KINDS]; /* index of the kind's view, of layer 0 where there are layers; -1: the model has none */
    int layer_views;       /* views per layer */
    int64_t count;         /* floats in the flat buffer, gaps included; a multiple of 64 */
    int64_t beside_count;  /* floats of those views, gaps included */
    Tensor value;          /* (count) F32 on the device; absent once frozen (model_freeze) */
    Tensor grad;           /* (count) or absent: frozen */
    Tensor narrow;         /* (count) BF16: what layers multiply, where that is not `value` itself; or absent */
    Tensor beside;         /* (beside_count) F32: gains and biases of a frozen model; absent otherwise */
    bool narrowed;         /* `narrow` is made of what `value` holds now */
} Params;

/* The views and their layout for a shape and head; no device memory. */
void params_layout(Params *params, const ModelShape *shape, HeadKind head);
void params_free(Params *params);
/* Index of a view by name, or -1. */
int params_find(const Params *params, const char *name);
/* Whoever has written to `value` calls this before the model is used: makes `narrow` of it, where there is one. */
void params_narrow(Device *device, Params *params);
/* From now on `beside` (beside_count) F32 and `narrow` are all there is: `value` goes (its memory is the caller's). */
void params_freeze(Device *device, Params *params, Tensor beside);
/* A view as a Parameter of its logical dimensions with stored rows; grad absent where params->grad is. */
Parameter params_get(const Params *params, int view);
/* Index of the view of a kind in `layer` (0 for kinds outside layers), or -1. */
int params_index(const Params *params, ViewKind kind, int64_t layer);
/* What a layer computes with: matrices from `narrow` where there is one (but the scalar head's), else as params_get; both tensors absent where the
 * model has none. */
Parameter params_of(const Params *params, ViewKind kind, int64_t layer);
/* Let gradients go to this buffer (count floats), or nowhere (absent tensor). Trainers switch lanes with it. */
void params_set_grad(Params *params, Tensor grad);
/* Learned numbers, without gaps and vocabulary tail. */
int64_t params_learned(const Params *params);
/* Fill by Philox: RNG_INIT, sample = index of the view, position = element / 4. Equal for every rank count. */
void params_initialise(Device *device, Params *params, uint64_t seed);
/* One view alone: a fresh score head on a trained trunk. The same numbers as params_initialise gives it. */
void params_initialise_view(Device *device, Params *params, uint64_t seed, int view);

#endif
