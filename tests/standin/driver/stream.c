/* Streams, events, captures and graphs, as CUDA's calls have them. */
#include "standin.h"

/* ---- streams ---- */

static CUresult make_stream(Stream **made, unsigned flags, int priority) {
    if (flags & ~1u)
        return refuse(CUDA_ERROR_INVALID_VALUE, "flags %u", flags);
    Stream *stream = new_object(STREAM, sizeof *stream);
    stream->flags = flags;
    stream->speed = chance(50) ? SLOW : FAST;
    /* A priority outside of the range is taken for the nearest inside. */
    stream->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    list_add(&current_context()->streams, stream);
    *made = stream;
    return CUDA_SUCCESS;
}

API CUresult cuStreamCreate(Stream **stream, unsigned flags) {
    CALL(CONTEXT);
    return make_stream(stream, flags, 0);
}

API CUresult cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) {
    CALL(CONTEXT);
    return make_stream(stream, flags, priority);
}

/* May the host wait for the stream, or ask for it? */
static CUresult find_waitable_stream(void *handle, Stream **stream) {
    TRY(find_stream(handle, stream));
    if ((*stream)->capture)
        return invalidate((*stream)->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                          "the stream is captured");
    TRY(check_safe());
    return check_stream(*stream);
}

/* Work that the stream has goes on. */
API CUresult cuStreamDestroy_v2(void *handle) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_object(handle, STREAM, &stream));
    if (stream->capture)
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                          "the stream is captured");
    destroy(&stream->object);
    return CUDA_SUCCESS;
}

API CUresult cuStreamSynchronize(void *handle) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_waitable_stream(handle, &stream));
    finish(stream->last);
    return CUDA_SUCCESS;
}

/* Is it done? Asking takes time, in which an operation is carried out: who asks long enough is told
   at last that it is. */
static CUresult ask(Operation *operation) {
    if (!operation || operation->done)
        return CUDA_SUCCESS;
    carry_out_one();
    return CUDA_ERROR_NOT_READY;
}

API CUresult cuStreamQuery(void *handle) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_waitable_stream(handle, &stream));
    return ask(stream->last);
}

API CUresult cuStreamGetPriority(void *handle, int *priority) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    *priority = stream->priority;
    return CUDA_SUCCESS;
}

API CUresult cuStreamGetFlags(void *handle, unsigned *flags) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    *flags = stream->flags;
    return CUDA_SUCCESS;
}

API CUresult cuStreamGetCtx(void *handle, Context **context) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    *context = stream->object.context;
    return CUDA_SUCCESS;
}

API CUresult cuStreamIsCapturing(void *handle, int *status) {
    enum { NONE, ACTIVE, INVALIDATED };
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    *status = !stream->capture ? NONE : stream->capture->invalid ? INVALIDATED : ACTIVE;
    return CUDA_SUCCESS;
}

API CUresult cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
    (void)flags;
    Stream *stream;
    Event *event;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    TRY(find_object(event_handle, EVENT, &event));
    return wait_event(stream, event);
}

API CUresult cuLaunchHostFunc(void *handle, void (*function)(void *), void *argument) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    TRY(check_stream(stream));
    Operation *operation = new_operation(CALL_HOST, stream->object.context);
    operation->function = function;
    operation->argument = argument;
    enqueue(stream, operation);
    return CUDA_SUCCESS;
}

/* ---- events ---- */

enum { DISABLE_TIMING = 2 };

API CUresult cuEventCreate(Event **made, unsigned flags) {
    CALL(CONTEXT);
    Event *event = new_object(EVENT, sizeof *event);
    event->flags = flags;
    *made = event;
    return CUDA_SUCCESS;
}

API CUresult cuEventDestroy_v2(void *handle) {
    Event *event;
    CALL(CONTEXT);
    TRY(find_object(handle, EVENT, &event));
    destroy(&event->object);
    return CUDA_SUCCESS;
}

API CUresult cuEventRecord(void *event_handle, void *handle) {
    Stream *stream;
    Event *event;
    CALL(CONTEXT);
    TRY(find_object(event_handle, EVENT, &event));
    TRY(find_stream(handle, &stream));
    if (event->object.context != stream->object.context)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "event and stream are of two contexts");
    return record_event(event, stream);
}

API CUresult cuEventSynchronize(void *handle) {
    Event *event;
    CALL(CONTEXT);
    TRY(find_object(handle, EVENT, &event));
    TRY(check_waitable(event));
    TRY(check_safe());
    finish(event->recorded);
    return CUDA_SUCCESS;
}

API CUresult cuEventQuery(void *handle) {
    Event *event;
    CALL(CONTEXT);
    TRY(find_object(handle, EVENT, &event));
    TRY(check_waitable(event));
    TRY(check_safe());
    return ask(event->recorded);
}

API CUresult cuEventElapsedTime(float *milliseconds, void *start_handle, void *end_handle) {
    Event *start;
    Event *end;
    CALL(CONTEXT);
    TRY(find_object(start_handle, EVENT, &start));
    TRY(find_object(end_handle, EVENT, &end));
    TRY(check_waitable(start));
    TRY(check_waitable(end));
    if ((start->flags | end->flags) & DISABLE_TIMING)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "an event without timing");
    if (!start->recorded || !end->recorded)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "an event that was not recorded");
    if (!start->recorded->done || !end->recorded->done)
        return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(end->recorded->done_at - start->recorded->done_at);
    return CUDA_SUCCESS;
}

/* ---- capture and graphs ---- */

API CUresult cuStreamBeginCapture_v2(void *handle, int mode) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    if (mode < GLOBAL || mode > RELAXED)
        return refuse(CUDA_ERROR_INVALID_VALUE, "mode %d", mode);
    return begin_capture(stream, mode);
}

API CUresult cuStreamEndCapture(void *handle, Graph **made) {
    Stream *stream;
    List nodes = {0};
    CALL(CONTEXT);
    *made = NULL;
    TRY(find_stream(handle, &stream));
    TRY(end_capture(stream, &nodes));
    Graph *graph = new_object(GRAPH, sizeof *graph);
    graph->nodes = nodes;
    *made = graph;
    return CUDA_SUCCESS;
}

API CUresult cuGraphInstantiateWithFlags(Graph **made, void *handle, unsigned long long flags) {
    (void)flags;
    Graph *graph;
    CALL(CONTEXT);
    TRY(find_object(handle, GRAPH, &graph));
    Graph *exec = new_object(EXEC, sizeof *exec);
    copy_nodes(&exec->nodes, &graph->nodes);
    *made = exec;
    return CUDA_SUCCESS;
}

static CUresult find_exec(void *handle, const Stream *stream, Graph **exec) {
    TRY(find_object(handle, EXEC, exec));
    if ((*exec)->object.context != stream->object.context)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "graph and stream are of two contexts");
    return CUDA_SUCCESS;
}

API CUresult cuGraphUpload(void *exec_handle, void *handle) {
    Stream *stream;
    Graph *exec;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    TRY(find_exec(exec_handle, stream, &exec));
    if (stream->capture)
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                          "a graph is uploaded on a captured stream");
    TRY(check_stream(stream));
    enqueue(stream, new_operation(MARK, stream->object.context));
    return CUDA_SUCCESS;
}

API CUresult cuGraphLaunch(void *exec_handle, void *handle) {
    Stream *stream;
    Graph *exec;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    TRY(find_exec(exec_handle, stream, &exec));
    return launch_graph(exec, stream);
}

static CUresult destroy_graph(void *handle, Kind kind) {
    Graph *graph;
    TRY(find_object(handle, kind, &graph));
    destroy(&graph->object);
    drop_graph(graph);
    return CUDA_SUCCESS;
}

API CUresult cuGraphDestroy(void *handle) {
    CALL(CONTEXT);
    return destroy_graph(handle, GRAPH);
}

API CUresult cuGraphExecDestroy(void *handle) {
    CALL(CONTEXT);
    return destroy_graph(handle, EXEC);
}
