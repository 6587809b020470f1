/* Blocks of memory, each of one device or page-locked; copies and fills. */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Copies of so many bytes from pageable memory are not waited for, though they are synchronous. */
enum { STAGED_AT_ONCE = 64 << 10 };

List blocks;
size_t pinned_used;
size_t pinned_limit;

/* The block that an address is in, a freed one too; NULL for pageable memory of the host. */
Block *find_block(const void *address) {
    const char *wanted = address;
    for (size_t i = blocks.count; i-- > 0;) {
        Block *it = blocks.at[i];
        if (wanted >= it->range.at && wanted < it->range.at + it->range.size)
            return it;
    }
    return NULL;
}

/* Is the memory there, inside one block, and may work of the context use it? */
CUresult check_range(const Context *context, const void *address, size_t size, Block **found) {
    Block *block = find_block(address);
    *found = block;
    if (!block)
        return CUDA_SUCCESS;
    if (block->freed)
        return refuse(CUDA_ERROR_INVALID_VALUE, "%p is in memory that was freed", address);
    if (size > (size_t)(block->range.at + block->range.size - (const char *)address))
        return refuse(CUDA_ERROR_INVALID_VALUE, "%zu bytes from %p end outside of their block", size,
                      address);
    if (block->context && block->context != context)
        return refuse(CUDA_ERROR_INVALID_VALUE, "%p is memory of device %d, not of device %d",
                      address, block->context->device, context->device);
    return CUDA_SUCCESS;
}

/* A new block of a device, or of page-locked host memory (context NULL), full of rubbish. */
static CUresult allocate(Context *context, void **address, size_t size) {
    size_t *used = context ? &context->used : &pinned_used;
    size_t limit = context ? context->limit : pinned_limit;
    TRY(check_safe());
    if (!size)
        return refuse(CUDA_ERROR_INVALID_VALUE, "0 bytes");
    if (size > limit - *used || *used > limit)
        return CUDA_ERROR_OUT_OF_MEMORY;
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(at, 0xA5, size);
    Block *block = make(sizeof *block);
    block->range = (Range){at, size};
    block->context = context;
    list_add(&blocks, block);
    *used += size;
    *address = at;
    return CUDA_SUCCESS;
}

/* CUDA waits for the device before memory goes. Its addresses are not used again. */
static CUresult free_block(void *address, bool of_device) {
    TRY(check_safe());
    Block *block = find_block(address);
    if (!block || block->range.at != address || (block->context != NULL) != of_device)
        return refuse(CUDA_ERROR_INVALID_VALUE, "%p is no block of that kind", address);
    if (block->freed)
        return refuse(CUDA_ERROR_INVALID_VALUE, "%p was freed already", address);
    finish_all(block->context);
    block->freed = true;
    *(block->context ? &block->context->used : &pinned_used) -= block->range.size;
    memset(address, 0xDD, block->range.size);
    if (of_device) { /* the host has no business there */
        madvise(address, block->range.size, MADV_DONTNEED);
        mprotect(address, block->range.size, PROT_NONE);
    }
    return CUDA_SUCCESS;
}

API CUresult cuMemAlloc_v2(void **address, size_t size) {
    CALL(CONTEXT);
    return allocate(current_context(), address, size);
}

API CUresult cuMemFree_v2(void *address) {
    CALL(CONTEXT);
    return address ? free_block(address, true) : CUDA_SUCCESS;
}

API CUresult cuMemAllocHost_v2(void **address, size_t size) {
    CALL(CONTEXT);
    return allocate(NULL, address, size);
}

API CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    (void)flags;
    CALL(CONTEXT);
    return allocate(NULL, address, size);
}

API CUresult cuMemFreeHost(void *address) {
    CALL(CONTEXT);
    return free_block(address, false);
}

API CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    CALL(CONTEXT);
    const Context *context = current_context();
    *total = context->limit;
    *free = context->used < context->limit ? context->limit - context->used : 0;
    return CUDA_SUCCESS;
}

static CUresult pointer_attribute(void *value, int attribute, char *address) {
    enum { OF_CONTEXT = 1, MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER };
    enum { IS_MANAGED = 8, ORDINAL, RANGE_START = 11, RANGE_SIZE };
    const Block *block = find_block(address);
    if (!block || block->freed)
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case OF_CONTEXT:
        *(Context **)value = block->context;
        return CUDA_SUCCESS;
    case MEMORY_TYPE:
        *(unsigned *)value = block->context ? 2 : 1;
        return CUDA_SUCCESS;
    case DEVICE_POINTER:
        *(char **)value = address;
        return CUDA_SUCCESS;
    case HOST_POINTER:
        *(char **)value = address;
        return block->context ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    case IS_MANAGED:
        *(char *)value = 0;
        return CUDA_SUCCESS;
    case ORDINAL:
        *(int *)value = block->context ? block->context->device : 0;
        return CUDA_SUCCESS;
    case RANGE_START:
        *(char **)value = block->range.at;
        return CUDA_SUCCESS;
    case RANGE_SIZE:
        *(size_t *)value = block->range.size;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

API CUresult cuPointerGetAttribute(void *value, int attribute, void *address) {
    CALL(INIT);
    return pointer_attribute(value, attribute, address);
}

/* Other than one attribute alone, several of a pointer that CUDA does not know are zero. */
API CUresult cuPointerGetAttributes(unsigned count, const int *attributes, void **values,
                                    void *address) {
    CALL(INIT);
    for (unsigned i = 0; i < count; i++)
        if (pointer_attribute(values[i], attributes[i], address) != CUDA_SUCCESS)
            *(int *)values[i] = 0;
    return CUDA_SUCCESS;
}

/* ---- copies and fills ---- */

typedef enum Sides { ANY = 0, TO_DEVICE = 1, FROM_DEVICE = 2 } Sides;

/* Put a copy on a stream. The host goes on before it is done only where CUDA says so. */
static CUresult copy(void *target, const void *source, size_t size, Stream *stream, Sides sides,
                     bool synchronous) {
    Context *context = stream->object.context;
    Block *to;
    Block *from;
    TRY(check_range(context, target, size, &to));
    TRY(check_range(context, source, size, &from));
    if ((sides & TO_DEVICE && !to) || (sides & FROM_DEVICE && !from))
        return refuse(CUDA_ERROR_INVALID_VALUE, "pageable host memory in place of device memory");
    TRY(check_stream(stream));
    if (!size)
        return CUDA_SUCCESS;
    bool to_device = to && to->context;
    bool from_device = from && from->context;
    bool staged = to_device && !from;
    bool waits = !to || (!to_device && !from_device);
    if (synchronous)
        waits = !(to_device && from_device) && !(staged && size <= STAGED_AT_ONCE);
    Operation *operation = new_operation(COPY, context);
    operation->target = (Range){target, size};
    operation->source = source;
    if (stream->capture) { /* host memory is read or written at every launch, whatever its kind */
        enqueue(stream, operation);
        return CUDA_SUCCESS;
    }
    if (staged) {
        operation->staged = make(size);
        memcpy(operation->staged, source, size);
    }
    enqueue(stream, operation);
    if (waits)
        finish(stream->last);
    return CUDA_SUCCESS;
}

static CUresult copy_async(void *target, const void *source, size_t size, void *handle,
                           Sides sides) {
    Stream *stream;
    TRY(find_stream(handle, &stream));
    return copy(target, source, size, stream, sides, false);
}

static CUresult copy_now(void *target, const void *source, size_t size, Sides sides) {
    TRY(check_safe());
    return copy(target, source, size, current_context()->legacy, sides, true);
}

API CUresult cuMemcpyAsync(void *target, const void *source, size_t size, void *stream) {
    CALL(CONTEXT);
    return copy_async(target, source, size, stream, ANY);
}

API CUresult cuMemcpyHtoDAsync_v2(void *target, const void *source, size_t size, void *stream) {
    CALL(CONTEXT);
    return copy_async(target, source, size, stream, TO_DEVICE);
}

API CUresult cuMemcpyDtoHAsync_v2(void *target, const void *source, size_t size, void *stream) {
    CALL(CONTEXT);
    return copy_async(target, source, size, stream, FROM_DEVICE);
}

API CUresult cuMemcpyDtoDAsync_v2(void *target, const void *source, size_t size, void *stream) {
    CALL(CONTEXT);
    return copy_async(target, source, size, stream, TO_DEVICE | FROM_DEVICE);
}

API CUresult cuMemcpy(void *target, const void *source, size_t size) {
    CALL(CONTEXT);
    return copy_now(target, source, size, ANY);
}

API CUresult cuMemcpyHtoD_v2(void *target, const void *source, size_t size) {
    CALL(CONTEXT);
    return copy_now(target, source, size, TO_DEVICE);
}

API CUresult cuMemcpyDtoH_v2(void *target, const void *source, size_t size) {
    CALL(CONTEXT);
    return copy_now(target, source, size, FROM_DEVICE);
}

API CUresult cuMemcpyDtoD_v2(void *target, const void *source, size_t size) {
    CALL(CONTEXT);
    return copy_now(target, source, size, TO_DEVICE | FROM_DEVICE);
}

static CUresult fill(void *target, unsigned char value, size_t size, Stream *stream) {
    Block *block;
    TRY(check_range(stream->object.context, target, size, &block));
    if (!block)
        return refuse(CUDA_ERROR_INVALID_VALUE, "pageable host memory is filled");
    TRY(check_stream(stream));
    Operation *operation = new_operation(FILL, stream->object.context);
    operation->target = (Range){target, size};
    operation->value = value;
    enqueue(stream, operation);
    return CUDA_SUCCESS;
}

/* The host does not wait for it, though its name lacks the Async. */
API CUresult cuMemsetD8_v2(void *target, unsigned char value, size_t size) {
    CALL(CONTEXT);
    TRY(check_safe());
    return fill(target, value, size, current_context()->legacy);
}

API CUresult cuMemsetD8Async(void *target, unsigned char value, size_t size, void *handle) {
    Stream *stream;
    CALL(CONTEXT);
    TRY(find_stream(handle, &stream));
    return fill(target, value, size, stream);
}

