/* profile_report.h -- what a profile (core/tensor/op_profile.h) came to, for a person and for a trace viewer. */
#ifndef CORE_TRAIN_PROFILE_REPORT_H
#define CORE_TRAIN_PROFILE_REPORT_H

#include "core/base/text.h"
#include "core/comm/comm.h"

/* Append a table per phase of rank 0's time by op, the longest first, with the shortest and longest of all ranks where there are several.
 * The phase at hand is ended and begun again. [collective] */
void profile_report(Comm *comm, OpProfile *profile, Text *text);
/* Write this rank's calls and phases to `path` as trace-event JSON (chrome://tracing, Perfetto). It holds the first PROFILE_EVENTS_MAX calls;
 * what was left out is said in "otherData". [local] */
Status profile_trace(const OpProfile *profile, int rank, const char *path);

#endif
