/* A stand-in for the driver of v4l2loopback, preloaded into a process: the device of that name in
 * V4L2_DEVICE takes one format, which is appended to V4L2_LOG, and frames, appended to V4L2_FRAMES.
 * With V4L2_BUSY in the environment it refuses any format, as while another program shows it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int device = -1;

static int opened(const char *path, int flags, int mode, const char *real)
{
    int (*open_file)(const char *, int, ...) = dlsym(RTLD_NEXT, real);
    const char *name = getenv("V4L2_DEVICE");
    if (name && path && !strcmp(path, name)) {
        device = open_file(getenv("V4L2_FRAMES"), O_WRONLY | O_CREAT | O_APPEND, 0600);
        return device;
    }
    return open_file(path, flags, mode);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        int mode = flags & O_CREAT ? va_arg(more, int) : 0;                                        \
        va_end(more);                                                                              \
        return opened(path, flags, mode, #name);                                                   \
    }

OPEN(open)
OPEN(open64)

int ioctl(int file, unsigned long request, ...)
{
    int (*real)(int, unsigned long, void *) = dlsym(RTLD_NEXT, "ioctl");
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (file != device || device < 0)
        return real(file, request, argument);
    struct v4l2_format *format = argument;
    if (request == VIDIOC_G_FMT) {
        format->fmt.pix.field = V4L2_FIELD_NONE;
        return 0;
    }
    if (request == VIDIOC_S_FMT) {
        if (getenv("V4L2_BUSY")) {
            errno = EBUSY;
            return -1;
        }
        FILE *log = fopen(getenv("V4L2_LOG"), "a");
        fprintf(log, "%ux%u %.4s\n", format->fmt.pix.width, format->fmt.pix.height,
                (const char *)&format->fmt.pix.pixelformat);
        fclose(log);
        return 0;
    }
    errno = ENOTTY;
    return -1;
}
