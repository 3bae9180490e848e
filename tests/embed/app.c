/* What a stranger's first program does, without needing a model: the header and the library agree
 * on their version, and a failure comes back as a status with a sentence. Compiles as C99, C11 and
 * C++11. With an argument it opens that model and counts its layers. */
#include "ernie.h"
#include <stdio.h>
#include <string.h>

static int app_missing_file(void)
{
    ernie_model *model = NULL;
    ernie_error error;
    ernie_status status;
    memset(&error, 0, sizeof error);
    status = ernie_model_open(&model, "no-such-folder/none.ernie", NULL, &error);
    if (status == ERNIE_IO && error.code == ERNIE_IO && !model
        && strstr(error.message, "none.ernie"))
        return 0;
    fprintf(stderr, "a missing file gave status %d: %s\n", (int)status, error.message);
    return 1;
}

static int app_model(const char *path)
{
    ernie_model *model = NULL;
    ernie_error error;
    ernie_model_info info;
    memset(&error, 0, sizeof error);
    memset(&info, 0, sizeof info);
    info.size = (uint32_t)sizeof info;
    if (ernie_model_open(&model, path, NULL, &error) != ERNIE_OK
        || ernie_model_get_info(model, &info) != ERNIE_OK || info.n_layers == 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    printf("%s: %u layers\n", info.architecture, (unsigned)info.n_layers);
    ernie_model_close(model);
    return 0;
}

int main(int argc, char **argv)
{
    if (strcmp(ernie_version(), ERNIE_VERSION) != 0) {
        fprintf(stderr, "header %s, library %s\n", ERNIE_VERSION, ernie_version());
        return 1;
    }
    if (app_missing_file() != 0) return 1;
    return argc > 1 ? app_model(argv[1]) : 0;
}
