/* trained_with.c -- see trained_with.h. */
#include "launch/trained_with.h"

#include <string.h>
#include <sys/stat.h>

#include "core/base/log.h"
#include "core/data/dataset.h"
#include "core/h5/h5.h"

static void read_section(const Launch *launch, const char *yaml, const char *model, const char *section,
                         TrainedWith *trained)
{
    ConfigSource source = {.path = model, .text = yaml, .text_size = strlen(yaml)};
    Config *config = NULL;
    if (status_failed(config_open(source, &launch->schema, &config))) {
        log_warn("the configuration in %s is not understood, so its chat format is not known: %s", model,
                 status_message());
        return;
    }
    if (config_has(config, section)) {
        DataConfig data;
        config_read(config, section, data_config_keys, &data);
        *trained = (TrainedWith){data.template, data.append_eos,
                                 data.overlong == OVERLONG_TRUNCATE ? data.max_length : 0};
    }
    config_close(&config);
}

Status trained_with(const Launch *launch, const char *model, const TrainedWithOptions *options, TrainedWith *trained)
{
    *trained = (TrainedWith){.template = TEMPLATE_PLAIN, .append_eos = true};
    struct stat info;
    H5File *file = NULL;
    bool is_file = stat(model, &info) == 0 && S_ISREG(info.st_mode);
    if (is_file && !status_failed(h5_open(model, NULL, &file))) {
        const H5Attribute *config = h5_attribute(file, "/", "config");
        if (config && config->type == H5_STRING)
            read_section(launch, config->string, model, options->section, trained);
        h5_close(&file);
    }
    if (options->template_name) {
        const char *const *names = template_names();
        int kind = 0;
        while (names[kind] && strcmp(names[kind], options->template_name) != 0)
            kind++;
        if (!names[kind])
            return status_error(STATUS_USAGE, "--template: no format '%s'", options->template_name);
        trained->template = (TemplateKind)kind;
    }
    if (options->no_eos)
        trained->append_eos = false;
    if (options->max_length != CONFIG_AUTO)
        trained->max_length = options->max_length;
    return status_ok();
}
