/* Which member of a front should answer this input?
 *
 *     cc -std=c99 -O2 -I outputs/demo examples/c/choose.c -o choose -lm
 *     ./choose outputs/demo/self_information.f32 101 2023 2003 1037 2986 2143 102
 *
 * The header is the `controller.h` of a run, the table its `self_information.f32`, the numbers are token ids.
 */
#include <stdio.h>
#include <stdlib.h>

#include "controller.h"

enum { MOST_TOKENS = 4096 };

/* The table of nats per vocabulary entry: 32-bit floats, least byte first, as this machine must store them, too. */
static float *read_table(const char *path, long *entries)
{
    FILE *file = fopen(path, "rb");
    float *table = NULL;
    long bytes;
    if (!file) {
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) == 0 && (bytes = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        *entries = bytes / (long)sizeof(float);
        table = malloc((size_t)bytes);
        if (table && fread(table, sizeof(float), (size_t)*entries, file) != (size_t)*entries) {
            free(table);
            table = NULL;
        }
    }
    fclose(file);
    return table;
}

int main(int argc, char **argv)
{
    static int32_t ids[MOST_TOKENS];
    long entries = 0, id;
    float *table, entropy, position;
    char *end;
    int count = argc - 2, member, layer, i;

    if (count < 1 || count > MOST_TOKENS) {
        fprintf(stderr, "usage: %s self_information.f32 TOKEN_ID...\n", argv[0]);
        return 2;
    }
    table = read_table(argv[1], &entries);
    if (!table) {
        fprintf(stderr, "%s cannot be read; it lies in the folder of the run.\n", argv[1]);
        return 1;
    }
    for (i = 0; i < count; ++i) {
        id = strtol(argv[i + 2], &end, 10);
        if (*end || id < 0 || id >= entries) {
            fprintf(stderr, "%s is no token id below %ld.\n", argv[i + 2], entries);
            free(table);
            return 1;
        }
        ids[i] = (int32_t)id;
    }
    entropy = metas_token_entropy(ids, (size_t)count, table);
    position = (float)((double)count / METAS_MAX_LENGTH);
    free(table);
    member = metas_decide(entropy, position);
    if (member < 0) {
        fprintf(stderr, "The features of this input are no finite numbers.\n");
        return 1;
    }
    printf("run %s: %.4f nats, position %.4f: member %d\n", METAS_RUN, entropy, position, member);
    for (layer = 0; layer < METAS_LAYERS; ++layer) {
        printf("layer %d: %d heads, %d FFN blocks\n", layer,
               metas_attention[member][layer] ? metas_kept_heads[member][layer] : 0,
               metas_ffn[member][layer] ? metas_kept_ffn_blocks[member][layer] : 0);
    }
    return 0;
}
