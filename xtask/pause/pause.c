/* The pause container: it holds a pod's namespaces open and reaps the orphans that end up with it. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    /* An ignored SIGCHLD makes the kernel reap children itself: no handler, no zombies. */
    signal(SIGCHLD, SIG_IGN);
    for (;;)
        pause();
}
