/* The rules of stream capture, and the launch of what was captured. */
#include "standin.h"

#include <stdlib.h>

List captures;
_Thread_local int thread_mode = GLOBAL;

CUresult invalidate(Capture *capture, CUresult result, const char *why) {
    if (capture)
        capture->invalid = true;
    return refuse(result, "%s", why);
}

/* Calls that may do harm to a capture are refused to the capturing thread, and to all threads if
   the capture is global. A thread can lower its own guard. */
CUresult check_safe(void) {
    for (size_t i = 0; i < captures.count; i++) {
        Capture *it = captures.at[i];
        bool own = pthread_equal(it->thread, pthread_self());
        bool guarded = own ? it->mode != RELAXED && thread_mode != RELAXED
                           : it->mode == GLOBAL && thread_mode == GLOBAL;
        if (guarded)
            return invalidate(it, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                              own ? "unsafe in a thread that captures"
                                  : "unsafe while another thread captures in global mode");
    }
    return CUDA_SUCCESS;
}

/* Whatever waits for a whole context is refused to all threads while a stream of it is captured. */
CUresult check_context_safe(const Context *context) {
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < captures.count; i++) {
        Capture *it = captures.at[i];
        for (size_t j = 0; j < it->streams.count; j++)
            if (((const Stream *)it->streams.at[j])->object.context == context) {
                result = invalidate(it, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                                    "a stream of the context is captured");
                break;
            }
    }
    return result;
}

static void join_capture(Capture *capture, Stream *stream) {
    stream->capture = capture;
    list_add(&capture->streams, stream);
}

CUresult begin_capture(Stream *stream, int mode) {
    if (stream == stream->object.context->legacy)
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream has no captures");
    if (stream->capture)
        return refuse(CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already");
    Capture *capture = make(sizeof *capture);
    capture->mode = mode;
    capture->thread = pthread_self();
    capture->origin = stream;
    join_capture(capture, stream);
    list_add(&captures, capture);
    return CUDA_SUCCESS;
}

/* Has all that was captured come together in the stream that the capture began in? */
static bool is_joined(const Capture *capture) {
    uint64_t search = search_back(&capture->origin->tail);
    for (size_t i = 0; i < capture->nodes.count; i++)
        if (((const Operation *)capture->nodes.at[i])->wanted_by != search)
            return false;
    return true;
}

static void release_all(List *operations) {
    for (size_t i = 0; i < operations->count; i++)
        release(operations->at[i]);
    list_clear(operations);
}

/* End a capture, whatever came of it: its streams are as ever, its events can no more be used. */
void close_capture(Capture *capture) {
    for (size_t i = 0; i < capture->streams.count; i++) {
        Stream *it = capture->streams.at[i];
        it->capture = NULL;
        list_clear(&it->tail);
    }
    for (size_t i = 0; i < capture->events.count; i++) {
        Event *it = capture->events.at[i];
        if (it->capture != capture)
            continue;
        it->capture = NULL;
        list_clear(&it->tail);
    }
    list_remove(&captures, capture);
    list_clear(&capture->streams);
    list_clear(&capture->events);
    release_all(&capture->nodes);
    free(capture);
}

/* The nodes of the capture go to `nodes`. */
CUresult end_capture(Stream *stream, List *nodes) {
    Capture *capture = stream->capture;
    CUresult result = CUDA_SUCCESS;
    if (!capture)
        return refuse(CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured");
    if (capture->origin != stream)
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
                          "the capture began in another stream");
    if (capture->mode != RELAXED && !pthread_equal(capture->thread, pthread_self()))
        return refuse(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture");
    if (capture->invalid) {
        result = refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid by now");
    } else if (!is_joined(capture)) {
        result = refuse(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "work of other streams is not joined");
    } else {
        *nodes = capture->nodes;
        capture->nodes = (List){0};
    }
    close_capture(capture);
    return result;
}

CUresult record_event(Event *event, Stream *stream) {
    TRY(check_stream(stream));
    list_clear(&event->tail);
    event->capture = stream->capture;
    event->captured = stream->capture != NULL;
    if (event->captured) {
        list_add(&event->capture->events, event);
        for (size_t i = 0; i < stream->tail.count; i++)
            list_add(&event->tail, stream->tail.at[i]);
        return CUDA_SUCCESS;
    }
    Operation *mark = new_operation(MARK, stream->object.context);
    enqueue(stream, mark);
    set_operation(&event->recorded, mark);
    return CUDA_SUCCESS;
}

/* Let a stream wait for an event of a capture: it is drawn into the capture. */
static CUresult wait_in_capture(Stream *stream, const Event *event) {
    Capture *capture = event->capture;
    if (capture->invalid)
        return refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the event is of an invalid capture");
    if (stream == stream->object.context->legacy)
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                          "the legacy stream waits for an event of a capture");
    if (stream->capture && stream->capture != capture) {
        stream->capture->invalid = true;
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_MERGE,
                          "a captured stream waits for an event of another capture");
    }
    if (!stream->capture)
        join_capture(capture, stream);
    for (size_t i = 0; i < event->tail.count; i++)
        if (!list_has(&stream->tail, event->tail.at[i]))
            list_add(&stream->tail, event->tail.at[i]);
    return CUDA_SUCCESS;
}

CUresult wait_event(Stream *stream, Event *event) {
    TRY(check_stream(stream));
    if (event->capture)
        return wait_in_capture(stream, event);
    if (event->captured)
        return invalidate(stream->capture, CUDA_ERROR_CAPTURED_EVENT,
                          "the event was last recorded in a capture that has ended");
    if (stream->capture)
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                          "a captured stream waits for an event from outside of the capture");
    if (!event->recorded || event->recorded->done)
        return CUDA_SUCCESS;
    Operation *mark = new_operation(MARK, stream->object.context);
    add_need(mark, event->recorded);
    enqueue(stream, mark);
    return CUDA_SUCCESS;
}

/* May the host wait for the event, or ask for it? */
CUresult check_waitable(const Event *event) {
    if (!event->captured)
        return CUDA_SUCCESS;
    return invalidate(event->capture, CUDA_ERROR_CAPTURED_EVENT,
                      "the host asks for an event last recorded in a capture");
}

/* ---- graphs ---- */

void copy_nodes(List *nodes, const List *from) {
    for (size_t i = 0; i < from->count; i++)
        list_add(nodes, retain(from->at[i]));
}

void drop_graph(Graph *graph) {
    release_all(&graph->nodes);
    set_operation(&graph->last, NULL);
}

/* Is all memory of a graph's node still there? */
static CUresult check_node(const Operation *node) {
    Block *block;
    const Kernel *kernel = node->kernel;
    if (node->action == COPY)
        TRY(check_range(node->context, node->source, node->target.size, &block));
    if (node->action == COPY || node->action == FILL)
        TRY(check_range(node->context, node->target.at, node->target.size, &block));
    if (kernel) {
        TRY(check_range(node->context, kernel->scratch, 2 * sizeof *kernel->scratch, &block));
        for (size_t i = 0; i < kernel->n_inputs + kernel->n_outputs; i++)
            TRY(check_range(node->context, kernel->ranges[i].at, kernel->ranges[i].size, &block));
    }
    return CUDA_SUCCESS;
}

/* What a launch makes of a node; its needs are yet to be filled in. */
static Operation *instance_of(const Operation *node) {
    Operation *made = new_operation(node->action, node->context);
    made->target = node->target;
    made->source = node->source;
    made->value = node->value;
    made->speed = node->speed;
    made->kernel = node->kernel;
    if (made->kernel)
        made->kernel->references++;
    made->function = node->function;
    made->argument = node->argument;
    return made;
}

CUresult launch_graph(Graph *exec, Stream *stream) {
    if (stream->capture)
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                          "a graph is launched on a captured stream");
    TRY(check_stream(stream));
    for (size_t i = 0; i < exec->nodes.count; i++)
        TRY(check_node(exec->nodes.at[i]));
    Operation *begin = new_operation(MARK, stream->object.context);
    Operation *end = new_operation(MARK, stream->object.context);
    add_need(begin, exec->last); /* launches of one executable follow each other */
    enqueue(stream, begin);
    Operation **instances = make((exec->nodes.count + 1) * sizeof *instances);
    for (size_t i = 0; i < exec->nodes.count; i++) {
        const Operation *node = exec->nodes.at[i];
        Operation *instance = instance_of(node);
        instances[i] = instance;
        add_need(instance, begin);
        for (size_t j = 0; j < node->needs.count; j++)
            add_need(instance, instances[((const Operation *)node->needs.at[j])->index]);
        add_need(end, instance);
        list_add(&pending, instance);
    }
    free(instances);
    enqueue(stream, end);
    set_operation(&exec->last, end);
    return CUDA_SUCCESS;
}
