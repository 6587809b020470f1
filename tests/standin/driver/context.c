/* What every call begins with; devices and their contexts. */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK = 32 };

Context contexts[DEVICES];
long live[KINDS];
static bool initialised;
static _Thread_local Context *stack[STACK];
static _Thread_local int depth;

Context *current_context(void) {
    return depth ? stack[depth - 1] : NULL;
}

void unlock(const CUresult *begun) {
    (void)begun;
    pthread_mutex_unlock(&the_lock);
}

/* What any call finds: work that goes on meanwhile, a driver, and a context if it needs one. */
CUresult admit(Needs needs) {
    if (in_host_function)
        return refuse(CUDA_ERROR_NOT_PERMITTED, "a host function of a stream calls CUDA");
    if (needs == NOTHING)
        return CUDA_SUCCESS;
    if (!initialised)
        return refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    carry_out_some();
    if (needs == INIT)
        return CUDA_SUCCESS;
    if (!current_context())
        return refuse(CUDA_ERROR_INVALID_CONTEXT, "the thread has no current context");
    if (!current_context()->retained)
        return refuse(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context was released");
    return CUDA_SUCCESS;
}

CUresult begin(const char *name, Needs needs) {
    pthread_mutex_lock(&the_lock);
    calling = name;
    TRY(count_call(name));
    return admit(needs);
}

/* The object of a handle, if it is alive and of that kind. */
CUresult find_object(void *handle, Kind kind, void *found) {
    Object *object = handle;
    bool address = (uintptr_t)handle > 2; /* 0 to 2 are the default streams */
    if (!address || object->is_object != OBJECT || object->kind != kind)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "%p is no handle of that kind", handle);
    if (!object->alive)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "%p was destroyed", handle);
    memcpy(found, &object, sizeof object);
    return CUDA_SUCCESS;
}

CUresult find_stream(void *handle, Stream **found) {
    Context *context = current_context();
    *found = context->legacy;
    if ((uintptr_t)handle <= 1)
        return CUDA_SUCCESS;
    if ((uintptr_t)handle == 2)
        return refuse(CUDA_ERROR_NOT_SUPPORTED, "the stand-in has no default stream per thread");
    TRY(find_object(handle, STREAM, found));
    if ((*found)->object.context != context)
        return refuse(CUDA_ERROR_INVALID_HANDLE, "the stream is of another context");
    return CUDA_SUCCESS;
}

void *new_object(Kind kind, size_t size) {
    Object *made = make(size);
    made->is_object = OBJECT;
    made->kind = kind;
    made->alive = true;
    made->context = current_context();
    live[kind]++;
    return made;
}

void destroy(Object *object) {
    object->alive = false;
    live[object->kind]--;
}

/* ---- devices and contexts ---- */

static CUresult find_device(int device) {
    if (device < 0 || device >= device_count())
        return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no device %d", device);
    return CUDA_SUCCESS;
}

int device_count(void) {
    const char *wanted = getenv("STANDIN_DEVICES");
    int count = wanted ? atoi(wanted) : 2;
    return count < 0 ? 0 : count > DEVICES ? DEVICES : count;
}

__attribute__((constructor)) static void start_devices(void) {
    for (int i = 0; i < DEVICES; i++) {
        Context *it = &contexts[i];
        it->device = i;
        it->legacy = make(sizeof *it->legacy);
        it->legacy->speed = FAST;
        it->legacy->object = (Object){OBJECT, STREAM, true, it};
    }
    reset_limits();
}

/* Let every device have 8 GiB, and page-locked memory too. */
void reset_limits(void) {
    for (int i = 0; i < DEVICES; i++)
        contexts[i].limit = (size_t)8 << 30;
    pinned_limit = (size_t)8 << 30;
}

API CUresult cuInit(unsigned flags) {
    CALL(NOTHING);
    if (flags)
        return refuse(CUDA_ERROR_INVALID_VALUE, "flags %u", flags);
    if (device_count() == 0)
        return CUDA_ERROR_NO_DEVICE;
    initialised = true;
    return CUDA_SUCCESS;
}

API CUresult cuDriverGetVersion(int *version) {
    CALL(NOTHING);
    const char *wanted = getenv("STANDIN_DRIVER_VERSION");
    *version = wanted ? atoi(wanted) : 13040;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int *count) {
    CALL(INIT);
    *count = device_count();
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(int *device, int ordinal) {
    CALL(INIT);
    TRY(find_device(ordinal));
    *device = ordinal;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char *name, int size, int device) {
    CALL(INIT);
    TRY(find_device(device));
    snprintf(name, size, "Stand-in GPU %d", device);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    enum { COMPUTE_MAJOR = 75, COMPUTE_MINOR = 76 };
    CALL(INIT);
    TRY(find_device(device));
    *value = attribute == COMPUTE_MAJOR ? 8 : attribute == COMPUTE_MINOR ? 9 : 1;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    CALL(INIT);
    TRY(find_device(device));
    *bytes = contexts[device].limit;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(char *uuid, int device) {
    CALL(INIT);
    TRY(find_device(device));
    memset(uuid, 0x50 + device, 16);
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(Context **context, int device) {
    CALL(INIT);
    TRY(find_device(device));
    contexts[device].retained++;
    *context = &contexts[device];
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    CALL(INIT);
    TRY(find_device(device));
    if (!contexts[device].retained)
        return refuse(CUDA_ERROR_INVALID_CONTEXT, "released more often than retained");
    contexts[device].retained--;
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    CALL(INIT);
    TRY(find_device(device));
    *flags = contexts[device].flags;
    *active = contexts[device].retained > 0;
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    CALL(INIT);
    TRY(find_device(device));
    contexts[device].flags = flags;
    return CUDA_SUCCESS;
}

static CUresult find_context(const Context *context) {
    if (context < contexts || context >= contexts + device_count())
        return refuse(CUDA_ERROR_INVALID_CONTEXT, "%p is no context", (const void *)context);
    return CUDA_SUCCESS;
}

API CUresult cuCtxPushCurrent_v2(Context *context) {
    CALL(INIT);
    TRY(find_context(context));
    if (depth == STACK)
        return refuse(CUDA_ERROR_INVALID_VALUE, "more contexts were pushed than popped");
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

API CUresult cuCtxPopCurrent_v2(Context **context) {
    CALL(INIT);
    if (!depth)
        return refuse(CUDA_ERROR_INVALID_CONTEXT, "the thread has no current context");
    depth--;
    if (context)
        *context = stack[depth];
    return CUDA_SUCCESS;
}

API CUresult cuCtxSetCurrent(Context *context) {
    CALL(INIT);
    if (context)
        TRY(find_context(context));
    if (depth)
        depth--;
    if (context)
        stack[depth++] = context;
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(Context **context) {
    CALL(INIT);
    *context = current_context();
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice(int *device) {
    CALL(CONTEXT);
    *device = current_context()->device;
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice_v2(int *device, const Context *context) {
    CALL(INIT);
    context = context ? context : current_context();
    TRY(find_context(context));
    *device = context->device;
    return CUDA_SUCCESS;
}

API CUresult cuCtxSynchronize(void) {
    CALL(CONTEXT);
    TRY(check_context_safe(current_context()));
    TRY(check_safe());
    finish_all(current_context());
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    CALL(CONTEXT);
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

API CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    CALL(INIT);
    int before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
