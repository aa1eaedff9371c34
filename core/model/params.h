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
    bool decay;          /* weight decay applies: matrices, not norms, biases or position tables */
    InitKind init;
    double deviation; /* of INIT_NORMAL */
} ParamView;

typedef enum HeadKind { HEAD_NONE, HEAD_LM, HEAD_SCALAR } HeadKind;

typedef struct Params {
    ParamView *view;
    int views;
    int64_t count; /* floats in the flat buffer, gaps included; a multiple of 64 */
    Tensor value;  /* (count) F32 on the device */
    Tensor grad;   /* (count) or absent: frozen */
} Params;

/* The views and their layout for a shape and head; no device memory. */
void params_layout(Params *params, const ModelShape *shape, HeadKind head);
void params_free(Params *params);
/* Index of a view by name, or -1. */
int params_find(const Params *params, const char *name);
/* A view as a Parameter of its logical dimensions with stored rows; grad absent where params->grad is. */
Parameter params_get(const Params *params, int view);
/* Let gradients go to this buffer (count floats), or nowhere (absent tensor). Trainers switch lanes with it. */
void params_set_grad(Params *params, Tensor grad);
/* Learned numbers, without gaps and vocabulary tail. */
int64_t params_learned(const Params *params);
/* Fill by Philox: RNG_INIT, sample = index of the view, position = element / 4. Equal for every rank count. */
void params_initialise(Device *device, Params *params, uint64_t seed);

#endif
