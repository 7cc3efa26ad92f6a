// Loaded into a training process with LD_PRELOAD: ends it, as kill -9 does, at one call of the
// file system that CNTK's C++ or Python makes, or lets that call fail. What a test cannot reach
// from Python.
//
// NETOPT_KILL_POINT is CALL:WHEN:COUNT:PATTERN:
//   CALL     unlink, rename (of the file it makes) or write
//   WHEN     before, after, or half (a write of which half the bytes reach the file); EIO lets this
//   one
//            write fail and the process live, ENOSPC this one and all that follow on such a path
//   COUNT    the how-manieth call on a path that matches, from 1
//   PATTERN  of the whole path, as fnmatch has it
#include <dlfcn.h>
#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <string>

namespace {

struct Point {
    std::string call, when, pattern;
    long left = 0;

    Point() {
        const char* text = getenv("NETOPT_KILL_POINT");
        if (!text) return;
        const std::string given(text);
        const size_t first = given.find(':'), second = given.find(':', first + 1),
                     third = given.find(':', second + 1);
        call = given.substr(0, first);
        when = given.substr(first + 1, second - first - 1);
        left = atol(given.substr(second + 1, third - second - 1).c_str());
        pattern = given.substr(third + 1);
    }

    // Whether this call is the one; counts it.
    bool reached(const char* name, const char* path) {
        return left > 0 && call == name && fnmatch(pattern.c_str(), path, 0) == 0 && --left == 0;
    }
};

Point& point() {
    static Point only;
    return only;
}

void die() {
    static const char said[] = "KILLED\n";
    (void)!syscall(SYS_write, 2, said, sizeof said - 1);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

template <class Call>
Call next(const char* name) {
    return reinterpret_cast<Call>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" int unlink(const char* path) {
    static const auto original = next<int (*)(const char*)>("unlink");
    const bool now = point().reached("unlink", path);
    if (now && point().when == "before") die();
    const int result = original(path);
    if (now) die();
    return result;
}

extern "C" int rename(const char* from, const char* to) {
    static const auto original = next<int (*)(const char*, const char*)>("rename");
    const bool now = point().reached("rename", to);
    if (now && point().when == "before") die();
    const int result = original(from, to);
    if (now) die();
    return result;
}

namespace {

// Ends the process at a write to `descriptor`, after half of `bytes`, where that is the point.
// Returns the error the write is to fail with; 0 where it is to be made.
int error_of_write(int descriptor, const void* bytes, size_t count) {
    static const auto original = next<ssize_t (*)(int, const void*, size_t)>("write");
    static bool full = false;
    if ((point().left == 0 && !full) || point().call != "write") return 0;
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (full) return fnmatch(point().pattern.c_str(), path, 0) == 0 ? ENOSPC : 0;
    if (!point().reached("write", path)) return 0;
    if (point().when == "EIO") return EIO;
    if (point().when == "ENOSPC") {
        full = true;
        return ENOSPC;
    }
    if (point().when == "half") (void)!original(descriptor, bytes, count / 2);
    die();
    return 0;
}

}  // namespace

extern "C" ssize_t write(int descriptor, const void* bytes, size_t count) {
    static const auto original = next<ssize_t (*)(int, const void*, size_t)>("write");
    errno = error_of_write(descriptor, bytes, count);
    return errno ? -1 : original(descriptor, bytes, count);
}

// What C++ streams write with.
extern "C" ssize_t writev(int descriptor, const iovec* parts, int count) {
    static const auto original = next<ssize_t (*)(int, const iovec*, int)>("writev");
    errno = count > 0 ? error_of_write(descriptor, parts[0].iov_base, parts[0].iov_len) : 0;
    return errno ? -1 : original(descriptor, parts, count);
}
