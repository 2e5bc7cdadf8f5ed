/* Preloaded, it gives memory that is aligned as was asked for and no further: an odd multiple of the
 * alignment, where glibc often gives more. What needs more than it asks for shows. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

enum { TRIES = 8 };

typedef void *(*allocate)(size_t, size_t);

/* Blocks that do not fit are held until one does, so that the next is another one. */
static void *at_odd_multiple(size_t alignment, size_t size) {
    static allocate real;
    if (!real) real = (allocate)dlsym(RTLD_NEXT, "memalign");
    void *held[TRIES];
    void *block = NULL;
    int n_held = 0;
    while (n_held < TRIES) {
        block = real(alignment, size);
        if (!block || ((uintptr_t)block / alignment) % 2 == 1) break;
        held[n_held++] = block;
        /* The chunk behind it begins elsewhere. */
        size += alignment;
    }
    if (n_held == TRIES) block = held[--n_held];
    while (n_held > 0) free(held[--n_held]);
    return block;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *block = at_odd_multiple(alignment, size);
    if (!block) return ENOMEM;
    *out = block;
    return 0;
}

void *memalign(size_t alignment, size_t size) { return at_odd_multiple(alignment, size); }

void *aligned_alloc(size_t alignment, size_t size) { return at_odd_multiple(alignment, size); }
