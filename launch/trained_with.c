/* trained_with.c -- see trained_with.h. */
#include "launch/trained_with.h"

#include <string.h>
#include <sys/stat.h>

#include "core/base/log.h"
#include "core/data/dataset.h"
#include "core/h5/h5.h"
#include "stages/sections.h"
#include "stages/stage.h"

static void read_sections(const Config *config, const char *section, TrainedWith *trained)
{
    /* An experiment's stages agree on the format, so one that lacks this section says it in another. */
    for (int i = 0; i < STAGES && !config_has(config, section); i++)
        section = stage_rows[i].name;
    if (config_has(config, section)) {
        DataConfig data;
        config_read(config, section, data_config_keys, &data);
        trained->template = data.template;
        trained->append_eos = data.append_eos;
        trained->max_length = data.overlong == OVERLONG_TRUNCATE ? data.max_length : 0;
    }
    if (config_has(config, "ppo")) {
        PpoConfig ppo;
        config_read(config, "ppo", ppo_keys, &ppo);
        trained->max_new = ppo.max_new;
        trained->temperature = ppo.temperature;
        trained->ignore_end = ppo.eos == EOS_IGNORE;
        if (config_count(config, "ppo.prompts") > 0) {
            DataSource source;
            config_read(config, "ppo.prompts[0]", data_source_keys, &source);
            trained->prompt_tokens = source.prompt_tokens;
        }
    }
}

static void read_config(const char *yaml, const char *model, const char *section, TrainedWith *trained)
{
    ConfigSchema schema = {0};
    ConfigSource source = {.path = model, .text = yaml, .text_size = strlen(yaml)};
    Config *config = NULL;
    stages_schema(&schema);
    if (status_failed(config_open(source, &schema, &config)))
        log_warn("the configuration in %s is not understood, so its chat format is not known: %s", model,
                 status_message());
    else
        read_sections(config, section, trained);
    config_close(&config);
    config_schema_free(&schema);
}

Status trained_with(const char *model, const TrainedWithOptions *options, TrainedWith *trained)
{
    *trained = (TrainedWith){.template = TEMPLATE_PLAIN, .append_eos = true, .max_new = 128, .temperature = 1};
    struct stat info;
    H5File *file = NULL;
    bool is_file = stat(model, &info) == 0 && S_ISREG(info.st_mode);
    if (is_file && !status_failed(h5_open(model, NULL, &file))) {
        const H5Attribute *config = h5_attribute(file, "/", "config");
        if (config && config->type == H5_STRING && config->string[0])
            read_config(config->string, model, options->section, trained);
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
