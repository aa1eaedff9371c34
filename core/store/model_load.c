/* model_load.c -- a model from wherever a model may come: one of our HDF5 files, or a Hugging Face directory. */
#include <string.h>
#include <sys/stat.h>

#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"

static Status load_directory(Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                             Tokenizer **tokenizer, char digest[40])
{
    H5Digest hash;
    TRY(huggingface_load(path, device, head, model, has_head, &hash));
    h5_digest_text(hash, digest);
    return tokenizer ? tokenizer_open(tokenizer, path) : status_ok();
}

Status model_load(Comm *comm, Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                  Tokenizer **tokenizer, char digest[40])
{
    struct stat info;
    if (tokenizer)
        *tokenizer = NULL;
    *has_head = false;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return comm_agree(comm, load_directory(device, path, head, model, has_head, tokenizer, digest));
    return checkpoint_load_model(comm, device, path, head, model, has_head, tokenizer, digest);
}
