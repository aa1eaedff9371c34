/* cores.h -- a rank keeps to cores of its own, where that is certain to be right.
 *
 * A thread that moves leaves its caches behind, and on a machine of several sockets its memory too. OpenMP's own OMP_PROC_BIND knows
 * nothing of other ranks: it puts all of them on the same cores. */
#ifndef LAUNCH_CORES_H
#define LAUNCH_CORES_H

/* For rank `node_rank` of `node_ranks` of this machine, of `threads` each, all of which may use the same cores: it stays on its equal part
 * of them, neighbours together. Done only where every thread has a core, no quota (`quota` cores; 0: none) takes cores away unseen, and
 * the job takes more than half of them: two small jobs that know nothing of each other would otherwise share the same few. Threads that
 * start later inherit it. Returns how many cores this rank now keeps to; 0: as before. [local] */
int cores_keep(int node_rank, int node_ranks, int threads, int quota);

#endif
