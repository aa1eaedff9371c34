/* heads.c -- what reads the hidden states: a vocabulary (language model) or one number (critic, reward model). */
#include "core/model/model.h"

VocabularyHead model_vocabulary_head(const Model *model, float temperature)
{
    REQUIRE(model->head == HEAD_LM, "this model has no language-model head");
    ViewKind kind = model->shape.tied ? VIEW_TOKEN : VIEW_HEAD;
    VocabularyHead head = {
        .weight = params_of(&model->params, kind, 0),
        .vocab = model->shape.vocab,
        .temperature = temperature,
    };
    return head;
}

Tensor model_score(const Model *model, Exec *exec, Tensor hidden)
{
    REQUIRE(model->head == HEAD_SCALAR, "this model has no scalar head");
    Tensor score =
        linear_forward(exec, cast_forward(exec, hidden, DTYPE_F32), params_of(&model->params, VIEW_SCORE_WEIGHT, 0),
                       params_of(&model->params, VIEW_SCORE_BIAS, 0));
    /* Values and rewards are F32; (rows, 1) read as (rows); the node stays, so gradients find it. */
    score.ndim = 1;
    return score;
}
