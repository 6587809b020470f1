/* Work on streams, kept as a graph of operations and carried out late, in a random order among what
   streams, events and graphs allow. */
#include "standin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;
List pending;
int progress_percent = PROGRESS;
long operations_done;
long illegal_calls;
char last_illegal[512];
_Thread_local const char *calling = "";
_Thread_local bool in_host_function;

static pthread_cond_t something_done = PTHREAD_COND_INITIALIZER;
static int running; /* host functions */
static uint64_t random_state = 1;
static uint64_t searches;

/* ---- lists, chance, refusals ---- */

static void give_up(const char *why) {
    fprintf(stderr, "stand-in CUDA driver: %s: %s\n", calling, why);
    abort();
}

void *make(size_t size) {
    void *made = calloc(1, size);
    if (!made)
        give_up("the host's memory is full");
    return made;
}

void list_add(List *list, void *item) {
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 8;
        list->at = realloc(list->at, list->room * sizeof *list->at);
        if (!list->at)
            give_up("the host's memory is full");
    }
    list->at[list->count++] = item;
}

bool list_has(const List *list, const void *item) {
    for (size_t i = 0; i < list->count; i++)
        if (list->at[i] == item)
            return true;
    return false;
}

void list_remove(List *list, const void *item) {
    for (size_t i = 0; i < list->count; i++)
        if (list->at[i] == item) {
            list->at[i] = list->at[--list->count];
            return;
        }
}

void list_clear(List *list) {
    free(list->at);
    *list = (List){0};
}

void seed_random(uint64_t seed) {
    random_state = (seed + 1) * 0x9E3779B97F4A7C15ull;
    if (!random_state)
        random_state = 1;
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    uint64_t word = *state * 0x2545F4914F6CDD1Dull;
    return word ^ word >> 32;
}

bool chance(int percent) {
    return (int)(next_random(&random_state) % 100) < percent;
}

/* Note an illegal call; returns the result it has. */
CUresult refuse(CUresult result, const char *format, ...) {
    char why[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    snprintf(last_illegal, sizeof last_illegal, "%s: %d: %s", calling, result, why);
    illegal_calls++;
    if (getenv("STANDIN_TRACE"))
        fprintf(stderr, "stand-in CUDA driver: %s\n", last_illegal);
    return result;
}

/* ---- operations ---- */

Operation *new_operation(Action action, Context *context) {
    Operation *made = make(sizeof *made);
    made->action = action;
    made->context = context;
    made->references = 1;
    made->speed = FAST;
    return made;
}

Operation *retain(Operation *operation) {
    operation->references++;
    return operation;
}

void release(Operation *operation) {
    if (!operation || --operation->references)
        return;
    for (size_t i = 0; i < operation->needs.count; i++)
        release(operation->needs.at[i]);
    list_clear(&operation->needs);
    if (operation->kernel && !--operation->kernel->references)
        free(operation->kernel);
    free(operation->staged);
    free(operation);
}

/* Let `place`, of a stream or an event, hold another operation, or none. */
void set_operation(Operation **place, Operation *operation) {
    Operation *before = *place;
    *place = operation ? retain(operation) : NULL;
    release(before);
}

void add_need(Operation *later, Operation *earlier) {
    if (earlier && !earlier->done && !list_has(&later->needs, earlier))
        list_add(&later->needs, retain(earlier));
}

static uint64_t digest(uint64_t state, Range range) {
    for (size_t i = 0; i < range.size; i += sizeof(uint64_t)) {
        uint64_t word = i;
        size_t left = range.size - i;
        memcpy(&word, range.at + i, left < sizeof word ? left : sizeof word);
        state = (state ^ word) * 0x9E3779B97F4A7C15ull;
        state ^= state >> 29;
    }
    return state;
}

static void read_inputs(const Kernel *kernel) {
    uint64_t state = kernel->salt + 1;
    for (size_t i = 0; i < kernel->n_inputs; i++)
        state = digest(state + i, kernel->ranges[i]);
    kernel->scratch[0] = state;
    kernel->scratch[1] = ~state;
}

static void write_outputs(const Kernel *kernel) {
    for (size_t i = 0; i < kernel->n_outputs; i++) {
        Range output = kernel->ranges[kernel->n_inputs + i];
        uint64_t state = (kernel->scratch[0] ^ (kernel->scratch[1] << 1) ^ (i << 56)) | 1;
        for (size_t j = 0; j < output.size; j += sizeof state) {
            /* Read as two floats, each lies in [0.5, 1): what the host mixes stays finite. */
            uint64_t word = (next_random(&state) & 0x007FFFFF007FFFFFull) | 0x3F0000003F000000ull;
            size_t left = output.size - j;
            memcpy(output.at + j, &word, left < sizeof word ? left : sizeof word);
        }
    }
}

/* The lock is free meanwhile: a host function may wait for a thread that is in a call. */
static void call_host(Operation *operation) {
    operation->running = true;
    running++;
    pthread_mutex_unlock(&the_lock);
    in_host_function = true;
    operation->function(operation->argument);
    in_host_function = false;
    pthread_mutex_lock(&the_lock);
    running--;
}

static void carry_out(Operation *operation) {
    Range target = operation->target;
    switch (operation->action) {
    case MARK:
        break;
    case COPY:
        memmove(target.at, operation->staged ? operation->staged : operation->source, target.size);
        break;
    case FILL:
        memset(target.at, operation->value, target.size);
        break;
    case READ_INPUTS:
        read_inputs(operation->kernel);
        break;
    case WRITE_OUTPUTS:
        write_outputs(operation->kernel);
        break;
    case CALL_HOST:
        call_host(operation);
        break;
    }
    operation->done = true;
    operation->done_at = 0.01 * ++operations_done;
    for (size_t i = 0; i < operation->needs.count; i++)
        release(operation->needs.at[i]);
    list_clear(&operation->needs);
    list_remove(&pending, operation);
    release(operation);
    pthread_cond_broadcast(&something_done);
}

static bool may_begin(const Operation *operation) {
    if (operation->running)
        return false;
    for (size_t i = 0; i < operation->needs.count; i++)
        if (!((const Operation *)operation->needs.at[i])->done)
            return false;
    return true;
}

/* A random operation that may begin, of those that the search came by (0: of all); or NULL. */
static Operation *pick(uint64_t search) {
    Operation *picked = NULL;
    uint64_t seen = 0;
    for (size_t i = 0; i < pending.count; i++) {
        Operation *it = pending.at[i];
        if ((search && it->wanted_by != search) || !may_begin(it))
            continue;
        seen += it->speed;
        if (next_random(&random_state) % seen < it->speed)
            picked = it;
    }
    return picked;
}

static void mark_back(const List *from, uint64_t search) {
    for (size_t i = 0; i < from->count; i++) {
        Operation *it = from->at[i];
        if (it->done || it->wanted_by == search)
            continue;
        it->wanted_by = search;
        mark_back(&it->needs, search);
    }
}

/* Mark operations and all that they need; returns the mark. */
uint64_t search_back(const List *from) {
    uint64_t search = ++searches;
    mark_back(from, search);
    return search;
}

static void *carry_out_beside(void *operation) {
    pthread_mutex_lock(&the_lock);
    carry_out(operation);
    pthread_mutex_unlock(&the_lock);
    return NULL;
}

/* A host function goes on in a thread: nobody waits for it here. */
void carry_out_one(void) {
    Operation *next = pick(0);
    pthread_t thread;
    if (next && next->action != CALL_HOST) {
        carry_out(next);
    } else if (next && pthread_create(&thread, NULL, carry_out_beside, next) == 0) {
        next->running = true;
        pthread_detach(thread);
    }
}

void carry_out_some(void) {
    while (pending.count && chance(progress_percent)) {
        Operation *next = pick(0);
        if (!next)
            return;
        carry_out(next);
    }
}

static void wait_for_host_function(void) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 60;
    if (!running || pthread_cond_timedwait(&something_done, &the_lock, &deadline))
        give_up("it waits for what can never be done");
}

static bool is_done(const List *operations) {
    for (size_t i = 0; i < operations->count; i++)
        if (!((const Operation *)operations->at[i])->done)
            return false;
    return true;
}

/* Carry out work until the operations are done: at times no more than they need, so that whoever
   waits for the wrong thing sees what has not been done, at times other work first. */
static void finish_list(const List *operations) {
    uint64_t search = search_back(operations);
    for (size_t i = 0; i < operations->count; i++)
        retain(operations->at[i]);
    while (!is_done(operations)) {
        Operation *next = pick(chance(progress_percent) ? 0 : search);
        if (!next)
            next = pick(0);
        if (next)
            carry_out(next);
        else
            wait_for_host_function();
    }
    for (size_t i = 0; i < operations->count; i++)
        release(operations->at[i]);
}

void finish(Operation *operation) {
    List only = {(void *[]){operation}, 1, 1};
    if (operation)
        finish_list(&only);
}

/* Carry out all work of a context (NULL: of all). */
void finish_all(const Context *context) {
    List work = {0};
    for (size_t i = 0; i < pending.count; i++)
        if (!context || ((const Operation *)pending.at[i])->context == context)
            list_add(&work, pending.at[i]);
    finish_list(&work);
    list_clear(&work);
}

/* May work be put on the stream now? */
CUresult check_stream(Stream *stream) {
    const Context *context = stream->object.context;
    if (stream->capture && stream->capture->invalid)
        return refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid by now");
    if (stream != context->legacy)
        return CUDA_SUCCESS;
    /* The legacy stream would wait for the captured stream, which does no work. */
    for (size_t i = 0; i < context->streams.count; i++) {
        const Stream *other = context->streams.at[i];
        if (other->capture && !(other->flags & NON_BLOCKING))
            return invalidate(other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                              "the legacy stream is used while a blocking stream is captured");
    }
    return CUDA_SUCCESS;
}

/* Put an operation on a stream, or into the stream's capture, which owns it then. */
void enqueue(Stream *stream, Operation *operation) {
    const Context *context = stream->object.context;
    Capture *capture = stream->capture;
    operation->speed = stream->speed;
    if (capture) {
        for (size_t i = 0; i < stream->tail.count; i++)
            add_need(operation, stream->tail.at[i]);
        operation->index = capture->nodes.count;
        list_add(&capture->nodes, operation);
        list_clear(&stream->tail);
        list_add(&stream->tail, operation);
        return;
    }
    add_need(operation, stream->last);
    if (stream == context->legacy) {
        for (size_t i = 0; i < context->streams.count; i++) {
            const Stream *other = context->streams.at[i];
            if (!(other->flags & NON_BLOCKING))
                add_need(operation, other->last);
        }
    } else if (!(stream->flags & NON_BLOCKING)) {
        add_need(operation, context->legacy->last);
    }
    set_operation(&stream->last, operation);
    list_add(&pending, operation);
}
