/* Tells a program the CPUID leaves 0x1D and 0x1E (tile sizes of AMX) where a virtual machine hides them although it
 * has AMX: oneDNN then sets up no tiles and OpenVINO ends with an illegal instruction. For measuring only.
 *
 *     cc -O2 -shared -fPIC -o amx_leaf.so amx_leaf.c && LD_PRELOAD=./amx_leaf.so program
 *
 * The kernel lets CPUID fault (arch_prctl ARCH_CPUID); the handler runs it and fills the hidden leaves in. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static void allow(int allowed) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void handle(int signal_number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)r[REG_RIP];
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) {
        /* A real fault: it happens again, and nobody handles it. */
        signal(signal_number, SIG_DFL);
        return;
    }
    unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX], a, b, c, d;
    allow(1);
    __cpuid_count(leaf, part, a, b, c, d);
    allow(0);
    if (leaf == 0 && a < 0x1e) a = 0x1e;
    if (leaf == 0x1d) {
        a = part == 0 ? 1 : part == 1 ? 0x04002000 : 0; /* palettes; bytes of a tile and of all */
        b = part == 1 ? 0x00080040 : 0;                 /* tiles, bytes of a row */
        c = part == 1 ? 16 : 0;                         /* rows */
        d = 0;
    }
    if (leaf == 0x1e) {
        a = c = d = 0;
        b = part == 0 ? 0x4010 : 0; /* 16 rows by 64 bytes */
    }
    r[REG_RAX] = a;
    r[REG_RBX] = b;
    r[REG_RCX] = c;
    r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, 0);
    allow(0);
}
