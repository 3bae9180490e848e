/* Text and ids: the library fills the caller's arrays, here they grow until everything is there. */
#include "cli.h"

#include <stdlib.h>

static int cli_check_id(cli_context *cli, const ernie_model *model, const char *option, int32_t id)
{
    const uint32_t n_ids = cli_model_info(model).vocab_size;
    if ((uint32_t)id < n_ids) return CLI_OK;
    return cli_fail(cli, CLI_FAILED, "option --%s: id %d is not one of the model's, 0 to %u",
                    option, (int)id, n_ids - 1);
}

int cli_check_ids(cli_context *cli, const ernie_model *model)
{
    const program_options *options = &cli->options;
    int status = CLI_OK;
    for (size_t i = 0; i < options->ids.n && status == CLI_OK; i++)
        status = cli_check_id(cli, model, "ids", options->ids.ids[i]);
    for (size_t i = 0; i < options->stop_ids.n && status == CLI_OK; i++)
        status = cli_check_id(cli, model, "stop-id", options->stop_ids.ids[i]);
    for (size_t i = 0; i < options->bias.n && status == CLI_OK; i++)
        status = cli_check_id(cli, model, "logit-bias", options->bias.items[i].id);
    return status;
}

static void cli_reserve_ids(id_list *ids, size_t n)
{
    if (n <= ids->capacity) return;
    ids->ids = memory_resize(ids->ids, n, sizeof *ids->ids);
    ids->capacity = n;
}

ernie_status cli_tokenize(const ernie_model *model, const char *text, size_t n,
                          ernie_tokenize_mode mode, id_list *ids, ernie_error *error)
{
    cli_reserve_ids(ids, n / 2 + 16);
    ernie_status status;
    while ((status = ernie_tokenize(model, text, n, mode, ids->ids, ids->capacity, &ids->n, error))
           == ERNIE_FULL)
        cli_reserve_ids(ids, ids->n);
    return status;
}

ernie_status cli_chat_tokenize(const ernie_model *model, const ernie_message *messages, size_t n,
                               id_list *ids, ernie_error *error)
{
    cli_reserve_ids(ids, 256);
    ernie_status status;
    while ((status = ernie_chat_tokenize(model, messages, n, true, ids->ids, ids->capacity, &ids->n,
                                         error))
           == ERNIE_FULL)
        cli_reserve_ids(ids, ids->n);
    return status;
}

ernie_status cli_detokenize(const ernie_model *model, const int32_t *ids, size_t n,
                            bool with_special, text_buffer *text, ernie_error *error)
{
    size_t n_text = 0;
    ernie_status status = ernie_detokenize(model, ids, n, with_special, NULL, 0, &n_text, error);
    if (status != ERNIE_OK && status != ERNIE_FULL) return status;
    char *bytes = memory_resize(NULL, n_text + 1, 1);
    status = ernie_detokenize(model, ids, n, with_special, bytes, n_text + 1, &n_text, error);
    if (status == ERNIE_OK) buffer_add(text, bytes, n_text);
    free(bytes);
    return status;
}
