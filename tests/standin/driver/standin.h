/* A stand-in for NVIDIA's driver library: devices with memory of the host, streams that work late.

   context.c, memory.c and stream.c have CUDA's own functions, by their names in the library; work.c
   has the work on streams and capture.c the rules of capture; control.c has what tests ask of the
   stand-in beside CUDA. Everything is guarded by `the_lock`, which every call holds from its first
   line to its return. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nothing but CUDA's calls and standin_* is seen outside, or could be mistaken for another's. */
#pragma GCC visibility push(hidden)

#define RESULTS(X)                                                                        \
    X(CUDA_SUCCESS, 0, "no error")                                                        \
    X(CUDA_ERROR_INVALID_VALUE, 1, "invalid argument")                                    \
    X(CUDA_ERROR_OUT_OF_MEMORY, 2, "out of memory")                                       \
    X(CUDA_ERROR_NOT_INITIALIZED, 3, "initialization error")                              \
    X(CUDA_ERROR_DEVICE_UNAVAILABLE, 46, "device is busy or unavailable")                 \
    X(CUDA_ERROR_NO_DEVICE, 100, "no CUDA-capable device is detected")                    \
    X(CUDA_ERROR_INVALID_DEVICE, 101, "invalid device ordinal")                           \
    X(CUDA_ERROR_INVALID_CONTEXT, 201, "invalid device context")                          \
    X(CUDA_ERROR_INVALID_HANDLE, 400, "invalid resource handle")                          \
    X(CUDA_ERROR_ILLEGAL_STATE, 401, "the resource is not in a valid state for this")     \
    X(CUDA_ERROR_NOT_FOUND, 500, "named symbol not found")                                \
    X(CUDA_ERROR_NOT_READY, 600, "device not ready")                                      \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")        \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, 709, "context is destroyed")                       \
    X(CUDA_ERROR_LAUNCH_FAILED, 719, "unspecified launch failure")                        \
    X(CUDA_ERROR_NOT_PERMITTED, 800, "operation not permitted")                           \
    X(CUDA_ERROR_NOT_SUPPORTED, 801, "operation not supported")                           \
    X(CUDA_ERROR_SYSTEM_NOT_READY, 802, "system not yet initialized")                     \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 900, "not permitted when stream is capturing") \
    X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, 901, "failed due to a previous error during capture") \
    X(CUDA_ERROR_STREAM_CAPTURE_MERGE, 902, "would merge two captures")                   \
    X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, 903, "capture was not ended in the stream it began in") \
    X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 904, "capturing stream has unjoined work")      \
    X(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work")  \
    X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 906, "would depend on the legacy stream")       \
    X(CUDA_ERROR_CAPTURED_EVENT, 907, "the event was last recorded in a capturing stream") \
    X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, 908, "capture is of another thread")        \
    X(CUDA_ERROR_UNKNOWN, 999, "unknown error")

typedef enum CUresult {
#define X(name, code, text) name = code,
    RESULTS(X)
#undef X
} CUresult;

/* Leave the function if the call failed. */
#define TRY(call)                           \
    do {                                    \
        CUresult tried = (call);            \
        if (tried != CUDA_SUCCESS)          \
            return tried;                   \
    } while (0)

typedef struct List {
    void **at;
    size_t count;
    size_t room;
} List;

enum { DEVICES = 8 }; /* at most */

enum { SLOW = 1, FAST = 64 };

/* A device's primary context: the stand-in has no others. */
typedef struct Context {
    int device;
    int retained;
    unsigned flags;
    size_t used; /* bytes */
    size_t limit;
    struct Stream *legacy; /* the default stream, handle 0 or 1 */
    List streams; /* with the destroyed ones, whose work may be under way */
} Context;

typedef enum Kind { STREAM, EVENT, GRAPH, EXEC, KINDS } Kind;

/* What a handle points to. Destroyed objects stay in memory, so that later uses can be refused. */
typedef struct Object {
    uint64_t is_object; /* OBJECT */
    Kind kind;
    bool alive;
    Context *context;
} Object;

typedef struct Range {
    char *at;
    size_t size;
} Range;

/* A kernel is two operations: one leaves a digest of the inputs in scratch memory, the other makes
   the outputs of what it finds there. */
typedef struct Kernel {
    int references;
    uint64_t salt;
    uint64_t *scratch; /* two words */
    size_t n_inputs;
    size_t n_outputs;
    Range ranges[]; /* inputs, then outputs */
} Kernel;

typedef enum Action { MARK, COPY, FILL, READ_INPUTS, WRITE_OUTPUTS, CALL_HOST } Action;

/* Work on a stream, which waits in `pending` until it is carried out; or a node of a graph. */
typedef struct Operation {
    Action action;
    int references;
    bool running; /* a host function, during which the lock is free */
    bool done;
    double done_at; /* milliseconds of the library's own clock */
    uint64_t wanted_by; /* the number of the last search that came by */
    unsigned speed; /* of its stream: how likely it is among what may begin */
    Context *context;
    List needs; /* what must be done before */
    size_t index; /* in its graph */
    Range target;
    const char *source;
    char *staged; /* the source, if it is a copy of pageable memory */
    int value;
    Kernel *kernel;
    void (*function)(void *);
    void *argument;
} Operation;

typedef struct Capture {
    int mode;
    bool invalid;
    pthread_t thread;
    struct Stream *origin;
    List streams;
    List events;
    List nodes;
} Capture;

typedef struct Stream {
    Object object;
    unsigned flags;
    int priority;
    unsigned speed; /* some are slow, so that others get far ahead of them */
    Operation *last;
    Capture *capture; /* under way, or NULL */
    List tail; /* nodes that the next one needs */
} Stream;

typedef struct Event {
    Object object;
    unsigned flags;
    Operation *recorded; /* the last record outside a capture */
    bool captured; /* the last record was inside one */
    Capture *capture; /* which, until it ends */
    List tail;
} Event;

typedef struct Graph { /* or an executable of one */
    Object object;
    List nodes;
    Operation *last; /* the end of the last launch */
} Graph;

typedef struct Block {
    Range range;
    Context *context; /* NULL: page-locked host memory */
    bool freed;
} Block;

#define OBJECT 0x5374616E642D696Eull

enum { PROGRESS = 30 }; /* percent */
enum { NON_BLOCKING = 1 }; /* of a stream: it does not wait for the legacy stream */
enum { GLOBAL, THREAD_LOCAL, RELAXED }; /* modes of a capture */

extern pthread_mutex_t the_lock;
extern List pending; /* operations */
extern List captures; /* open ones */
extern List blocks;
extern size_t pinned_used;
extern size_t pinned_limit;
extern Context contexts[DEVICES];
extern long live[KINDS]; /* objects that were not destroyed */
extern int progress_percent; /* the chance that an operation is carried out sooner than needed */
extern long operations_done;
extern long illegal_calls;
extern char last_illegal[512];
extern _Thread_local const char *calling; /* the name of this thread's call, for messages */
extern _Thread_local bool in_host_function;
extern _Thread_local int thread_mode; /* cuThreadExchangeStreamCaptureMode */

void *make(size_t size);
void list_add(List *list, void *item);
bool list_has(const List *list, const void *item);
void list_remove(List *list, const void *item);
void list_clear(List *list);

void seed_random(uint64_t seed);
bool chance(int percent);

CUresult refuse(CUresult result, const char *format, ...) __attribute__((format(printf, 2, 3)));
CUresult invalidate(Capture *capture, CUresult result, const char *why);

Operation *new_operation(Action action, Context *context);
Operation *retain(Operation *operation);
void release(Operation *operation);
void set_operation(Operation **place, Operation *operation);
void add_need(Operation *later, Operation *earlier);
uint64_t search_back(const List *from);
CUresult check_stream(Stream *stream);
void enqueue(Stream *stream, Operation *operation);
void carry_out_one(void);
void carry_out_some(void);
void finish(Operation *operation);
void finish_all(const Context *context);

Block *find_block(const void *address);
CUresult check_range(const Context *context, const void *address, size_t size, Block **found);

CUresult check_safe(void);
CUresult check_context_safe(const Context *context);
CUresult begin_capture(Stream *stream, int mode);
void close_capture(Capture *capture);
CUresult end_capture(Stream *stream, List *nodes);
CUresult record_event(Event *event, Stream *stream);
CUresult wait_event(Stream *stream, Event *event);
CUresult check_waitable(const Event *event);
void copy_nodes(List *nodes, const List *from);
void drop_graph(Graph *graph);
CUresult launch_graph(Graph *exec, Stream *stream);

/* ---- every call ---- */

#define API __attribute__((visibility("default")))

typedef enum Needs { NOTHING, INIT, CONTEXT } Needs;

/* The first line of a call of CUDA's: it counts, it may be made to fail, and it has the lock until
   it returns. */
#define CALL(needs)                                                                  \
    __attribute__((cleanup(unlock))) CUresult begun = begin(__func__, needs);        \
    if (begun != CUDA_SUCCESS)                                                       \
    return begun

CUresult begin(const char *name, Needs needs);
CUresult admit(Needs needs);
void unlock(const CUresult *begun);
CUresult count_call(const char *name);
int device_count(void);
void reset_limits(void);

Context *current_context(void);
CUresult find_object(void *handle, Kind kind, void *found);
CUresult find_stream(void *handle, Stream **found);
void *new_object(Kind kind, size_t size);
void destroy(Object *object);

#pragma GCC visibility pop
