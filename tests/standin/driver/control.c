/* What tests ask of the stand-in (standin_*): failures, limits, counts, a kernel. And how its calls
   are found by name. */
#define _GNU_SOURCE
#include "standin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first line of a function of tests: it has the lock until it returns, and does not count. */
#define TEST_CALL                                                       \
    __attribute__((cleanup(unlock))) const CUresult begun = quietly(__func__)

static CUresult quietly(const char *name) {
    pthread_mutex_lock(&the_lock);
    calling = name;
    return CUDA_SUCCESS;
}

/* ---- counts and failures ---- */

typedef struct Count {
    const char *name;
    long calls;
} Count;

static List counts;
static long calls_in_all;
static struct {
    long at; /* the call that fails, by its number since the start; 0: none */
    CUresult result;
    bool sticky;
} plan;
static long injected;
static long injected_releases;

static Count *find_count(const char *name) {
    for (size_t i = 0; i < counts.count; i++) {
        Count *it = counts.at[i];
        if (strcmp(it->name, name) == 0)
            return it;
    }
    return NULL;
}

/* Does the call give something back? Then its failure is a leak that nobody could prevent. */
static bool gives_back(const char *name) {
    return strstr(name, "Free") || strstr(name, "Destroy") || strstr(name, "Release");
}

/* Count a call of CUDA's; returns what it must fail with, if tests ask for that. */
CUresult count_call(const char *name) {
    Count *count = find_count(name);
    if (!count) {
        count = make(sizeof *count);
        count->name = name;
        list_add(&counts, count);
    }
    count->calls++;
    calls_in_all++;
    if (!plan.at || calls_in_all < plan.at || (calls_in_all > plan.at && !plan.sticky))
        return CUDA_SUCCESS;
    injected++;
    if (gives_back(name))
        injected_releases++;
    return plan.result;
}

/* Let the n-th call from now fail without its effect (1: the next; 0: none), and with `sticky`
   every later one. */
API void standin_fail(long n, int result, int sticky) {
    TEST_CALL;
    plan.at = n ? calls_in_all + n : 0;
    plan.result = (CUresult)result;
    plan.sticky = sticky;
}

API long standin_injected(void) {
    TEST_CALL;
    return injected;
}

/* Of the failures, those of calls that free, destroy or release: what they left is no leak. */
API long standin_injected_releases(void) {
    TEST_CALL;
    return injected_releases;
}

/* How often a function was called, by its name with or without _v2. */
API long standin_calls(const char *name) {
    TEST_CALL;
    char second[80];
    snprintf(second, sizeof second, "%s_v2", name);
    const Count *first = find_count(name);
    const Count *other = find_count(second);
    return (first ? first->calls : 0) + (other ? other->calls : 0);
}

/* All calls that can fail. */
API long standin_calls_in_all(void) {
    TEST_CALL;
    return calls_in_all;
}

API long standin_illegal(void) {
    TEST_CALL;
    return illegal_calls;
}

/* The last illegal call in words: its name, its result, why. Stays until the thread asks again. */
API const char *standin_last_illegal(void) {
    static _Thread_local char text[sizeof last_illegal];
    TEST_CALL;
    memcpy(text, last_illegal, sizeof text);
    return text;
}

/* ---- what there is ---- */

static long count_blocks(bool of_devices) {
    long count = 0;
    for (size_t i = 0; i < blocks.count; i++) {
        const Block *it = blocks.at[i];
        count += !it->freed && (it->context != NULL) == of_devices;
    }
    return count;
}

/* How many there are of: streams, events, graphs, execs, captures, blocks, pinned. */
API long standin_live(const char *what) {
    static const char *const names[KINDS] = {"streams", "events", "graphs", "execs"};
    TEST_CALL;
    for (int i = 0; i < KINDS; i++)
        if (strcmp(what, names[i]) == 0)
            return live[i];
    if (strcmp(what, "captures") == 0)
        return (long)captures.count;
    if (strcmp(what, "blocks") == 0)
        return count_blocks(true);
    if (strcmp(what, "pinned") == 0)
        return count_blocks(false);
    return -1;
}

/* Bytes in use of a device, or of page-locked memory (-1). */
API long standin_used(int device) {
    TEST_CALL;
    return device < 0 || device >= DEVICES ? (long)pinned_used : (long)contexts[device].used;
}

/* How often a device's primary context is retained. */
API long standin_retained(int device) {
    TEST_CALL;
    return device < 0 || device >= DEVICES ? -1 : contexts[device].retained;
}

API long standin_pending(void) {
    TEST_CALL;
    return (long)pending.count;
}

API long standin_done(void) {
    TEST_CALL;
    return operations_done;
}

/* ---- what goes on ---- */

/* How much memory a device has, or how much can be page-locked (-1). */
API void standin_limit(int device, size_t bytes) {
    TEST_CALL;
    if (device < 0)
        pinned_limit = bytes;
    else if (device < DEVICES)
        contexts[device].limit = bytes;
}

API void standin_seed(unsigned long long seed) {
    TEST_CALL;
    seed_random(seed);
}

/* The chance that an operation is carried out before anyone waits for it; 0: none ever is. */
API void standin_progress(int percent) {
    TEST_CALL;
    progress_percent = percent;
}

/* Carry out all work there is. */
API void standin_finish(void) {
    TEST_CALL;
    finish_all(NULL);
}

static void seed_from_environment(void) {
    const char *wanted = getenv("STANDIN_SEED");
    seed_random(wanted ? strtoull(wanted, NULL, 10) : 0);
}

__attribute__((constructor)) static void start(void) {
    seed_from_environment();
}

/* Forget counts, planned failures, limits, the seed and open captures; objects and pending work
   stay. */
API void standin_reset(void) {
    TEST_CALL;
    while (captures.count)
        close_capture(captures.at[0]);
    for (size_t i = 0; i < counts.count; i++)
        ((Count *)counts.at[i])->calls = 0;
    calls_in_all = 0;
    injected = 0;
    injected_releases = 0;
    plan.at = 0;
    illegal_calls = 0;
    last_illegal[0] = 0;
    operations_done = 0;
    progress_percent = PROGRESS;
    reset_limits();
    seed_from_environment();
}

/* ---- kernels ---- */

typedef struct Scratch {
    int engine;
    uint64_t words[2];
} Scratch;

/* The scratch memory of an engine, which all its launches share. */
static uint64_t *scratch_of(int engine) {
    static List all;
    for (size_t i = 0; i < all.count; i++) {
        Scratch *it = all.at[i];
        if (it->engine == engine)
            return it->words;
    }
    Scratch *made = make(sizeof *made);
    made->engine = engine;
    list_add(&all, made);
    return made->words;
}

static CUresult add_ranges(Kernel *kernel, size_t first, int count, void *const *addresses,
                           const size_t *sizes) {
    for (int i = 0; i < count; i++) {
        Block *block;
        TRY(check_range(current_context(), addresses[i], sizes[i], &block));
        if (!block)
            return refuse(CUDA_ERROR_INVALID_VALUE, "%p of a kernel is pageable host memory",
                          addresses[i]);
        kernel->ranges[first + i] = (Range){addresses[i], sizes[i]};
    }
    return CUDA_SUCCESS;
}

static void enqueue_half(Stream *stream, Action action, Kernel *kernel) {
    Operation *operation = new_operation(action, stream->object.context);
    operation->kernel = kernel;
    kernel->references++;
    enqueue(stream, operation);
}

static CUresult fill_in(Kernel *kernel, void *const *inputs, const size_t *input_sizes,
                        void *const *outputs, const size_t *output_sizes) {
    TRY(add_ranges(kernel, 0, (int)kernel->n_inputs, inputs, input_sizes));
    return add_ranges(kernel, kernel->n_inputs, (int)kernel->n_outputs, outputs, output_sizes);
}

/* Put a kernel on a stream whose outputs are made of all its inputs, by way of an engine's scratch
   memory: two launches of one engine that run beside each other spoil each other. `scratch`, 16
   bytes of device memory, takes the place of the engine's if it is not NULL. */
API int standin_launch(void *handle, int engine, void *scratch, unsigned long long salt,
                       int n_inputs, void *const *inputs, const size_t *input_sizes,
                       int n_outputs, void *const *outputs, const size_t *output_sizes) {
    Stream *stream;
    Block *block;
    TEST_CALL;
    TRY(admit(CONTEXT));
    TRY(find_stream(handle, &stream));
    if (scratch) {
        TRY(check_range(current_context(), scratch, 2 * sizeof(uint64_t), &block));
        if (!block || !block->context || (uintptr_t)scratch % sizeof(uint64_t))
            return refuse(CUDA_ERROR_INVALID_VALUE, "%p cannot be scratch memory", scratch);
    }
    TRY(check_stream(stream));
    Kernel *kernel = make(sizeof *kernel + (size_t)(n_inputs + n_outputs) * sizeof(Range));
    kernel->salt = salt;
    kernel->scratch = scratch ? scratch : scratch_of(engine);
    kernel->n_inputs = (size_t)n_inputs;
    kernel->n_outputs = (size_t)n_outputs;
    CUresult result = fill_in(kernel, inputs, input_sizes, outputs, output_sizes);
    if (result != CUDA_SUCCESS) {
        free(kernel);
        return result;
    }
    enqueue_half(stream, READ_INPUTS, kernel);
    enqueue_half(stream, WRITE_OUTPUTS, kernel);
    return CUDA_SUCCESS;
}

/* ---- names ---- */

static const struct {
    CUresult result;
    const char *name;
    const char *text;
} results[] = {
#define X(name, code, text) {name, #name, text},
    RESULTS(X)
#undef X
};

API CUresult cuGetErrorName(CUresult result, const char **name) {
    *name = NULL;
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i].result == result)
            *name = results[i].name;
    return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult result, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i].result == result)
            *text = results[i].text;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Whether a version of CUDA gave the function arguments that the stand-in does not know. */
static bool is_too_new(const char *name, int version) {
    return strcmp(name, "cuStreamGetCtx") == 0 && version >= 12050;
}

/* Functions are asked for by their first name; the newest form up to the version is meant. */
API CUresult cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags,
                                 int *status) {
    enum { FOUND = 0, NOT_FOUND = 1 };
    char second[80];
    Dl_info library;
    (void)flags;
    dladdr((void *)cuGetErrorName, &library);
    void *handle = dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    snprintf(second, sizeof second, "%s_v2", name);
    *found = NULL;
    if (handle && !is_too_new(name, version) && strncmp(name, "cu", 2) == 0) {
        bool first_form = strcmp(name, "cuCtxGetDevice") == 0 && version < 13000;
        *found = first_form ? NULL : dlsym(handle, second);
        if (!*found)
            *found = dlsym(handle, name);
    }
    if (handle)
        dlclose(handle);
    if (status)
        *status = *found ? FOUND : NOT_FOUND;
    return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
