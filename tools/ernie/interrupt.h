/* Ctrl-C, SIGTERM and SIGHUP: the program's only process-wide state. A first signal asks the running call of
 * the library to stop; a second one ends the program as if we had never asked to be told. */
#ifndef ERNIE_INTERRUPT_H
#define ERNIE_INTERRUPT_H

#include "../../ernie.h"

#include <stdatomic.h>

/* Take SIGINT, SIGTERM and SIGHUP over, ignore SIGPIPE and SIGXFSZ. Once, before anything else. */
void interrupt_install(void);

/* The signal that came since the start or the last clear, 0 for none. */
int interrupt_signal(void);
void interrupt_clear(void);

/* The flag that a signal sets, for calls that take one. */
ernie_cancel *interrupt_flag(void);

/* While a session is watched, a signal also cancels it. Watch exactly around a call: a request that
 * comes between calls would stop the next one. NULL ends the watch. */
void interrupt_watch(ernie_session *session);

/* The same for a flag, which a signal sets to 1. */
void interrupt_watch_flag(atomic_int *flag);

#endif
