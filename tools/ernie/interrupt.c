/* The signals that end the program. The handler stores, requests and cancels through atomic flags only, which is
 * all that a signal handler may do. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t interrupt_number;
static ernie_cancel interrupt_cancel;
static _Atomic(ernie_session *) interrupt_session;
static _Atomic(atomic_int *) interrupt_stop;

static void interrupt_handle(int number)
{
    if (interrupt_number) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    interrupt_number = number;
    ernie_cancel_request(&interrupt_cancel);
    ernie_session *session = atomic_load(&interrupt_session);
    if (session) ernie_session_cancel(session);
    atomic_int *stop = atomic_load(&interrupt_stop);
    if (stop) atomic_store(stop, 1);
}

void interrupt_install(void)
{
    /* Without SA_RESTART, so that a read of standard input ends, too. */
    struct sigaction action = { .sa_handler = interrupt_handle };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction old;
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup ignores it */
        sigaction(SIGHUP, &action, NULL);
    /* What cannot be written is told by write, so that it is reported and cleaned up. */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
}

int interrupt_signal(void)
{
    return interrupt_number;
}

void interrupt_clear(void)
{
    interrupt_number = 0;
    ernie_cancel_clear(&interrupt_cancel);
}

ernie_cancel *interrupt_flag(void)
{
    return &interrupt_cancel;
}

void interrupt_watch(ernie_session *session)
{
    atomic_store(&interrupt_session, session);
    /* A signal just before the store would have found no session to cancel. */
    if (session && interrupt_number) ernie_session_cancel(session);
}

void interrupt_watch_flag(atomic_int *flag)
{
    atomic_store(&interrupt_stop, flag);
    if (flag && interrupt_number) atomic_store(flag, 1);
}
