/* async_copy.cc -- cp.async: copies into shared memory that land when their group is waited for, and no sooner; and who may read what has landed.
 *
 * Why:   a lane that waited sees its own copies. Others see them after a barrier, of the warp or of the block, that the lane reached behind its wait: ldmatrix,
 *        shuffles and mma are no barriers, though lanes meet there, so no order of turns would show one that is missing before them.
 * How:   every 16 bytes that a copy wrote remember whose it was and which lanes have met that thread since it waited; ldmatrix asks for all lanes of its warp.
 * Limit: who learns of a copy from a lane that learnt of it (two barriers of halves of a warp) is not believed. */
#include <vector>

#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/tensor_core.h"
#include "tests/cuda_on_cpu/traffic.h"

namespace cuda_on_cpu
{

struct Copy {
    char *shared;
    const char *global;
    bool valid;
    int group; /* commits of its thread before it */
    int line;
};
/* What one thread of the block has under way. */
struct Copies {
    std::vector<Copy> pending;    /* in the order they began */
    std::vector<uint32_t> landed; /* pieces, since the block's last barrier */
    int commits;
};
enum PieceState : uint8_t { PLAIN, BEGUN, LANDED };
/* 16 bytes of shared memory. PLAIN: no copy's, or known to the whole block. */
struct Piece {
    int line;       /* of its copy */
    unsigned lanes; /* LANDED: of the copier's warp, who may read it */
    uint16_t copier;
    PieceState state;
};
/* Of the running block; both empty until its first copy. */
static thread_local std::vector<Copies> copies; /* by thread */
static thread_local std::vector<Piece> pieces;

static uint32_t piece_at(const void *shared)
{
    return (uint32_t)(((const char *)shared - (const char *)shared_dynamic()) / 16);
}

static void block_ended(void)
{
    for (size_t thread = 0; thread < copies.size(); thread++)
        if (!copies[thread].pending.empty())
            defect("thread %zu ended without waiting for the copy that it began at line %d", thread,
                   copies[thread].pending[0].line);
    copies.clear();
    pieces.clear();
}

/* Threads that waited, and then came to the block's barrier, have told everybody. */
static void block_met(void)
{
    for (Copies &own : copies) {
        for (uint32_t piece : own.landed)
            if (pieces[piece].state == LANDED)
                pieces[piece].state = PLAIN;
        own.landed.clear();
    }
}

void sync_apply(void **, unsigned mask)
{
    if (copies.empty())
        return;
    const unsigned first = thread_linear() / WARP_LANES * WARP_LANES;
    for (unsigned lane = 0; lane < WARP_LANES; lane++)
        if (mask >> lane & 1)
            for (uint32_t piece : copies[first + lane].landed)
                pieces[piece].lanes |= mask;
}

static Copies *copies_of_thread(void)
{
    if (copies.empty()) {
        copies.resize(blockDim.x * blockDim.y * blockDim.z);
        block_at_end(block_ended);
        block_at_barrier(block_met);
    }
    return &copies[thread_linear()];
}

void cp_async_16(void *shared, const void *global, bool valid, const char *file_, int line_)
{
    if (!shared_holds(shared, 16))
        defect("cp.async: line %d: the destination %p is not in the block's shared memory", line_, shared);
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)global % 16))
        defect("cp.async: line %d: an address is not a multiple of 16", line_);
    if (valid && !device_memory_has(global))
        defect("cp.async: line %d: the source %p is not device memory", line_, global);
    if (valid)
        count_global_at(global, 16, false, {file_, line_});
    count_shared_at(shared, 16, true, {file_, line_});
    memset(shared, 0xff, 16);
    Copies *own = copies_of_thread();
    own->pending.push_back({(char *)shared, (const char *)global, valid, own->commits, line_});
    const uint32_t piece = piece_at(shared);
    if (piece >= pieces.size())
        pieces.resize(piece + 1);
    pieces[piece] = {line_, 0, (uint16_t)thread_linear(), BEGUN};
}

void cp_async_commit(void)
{
    copies_of_thread()->commits++;
}

void async_copies_wait(int newest)
{
    Copies *own = copies_of_thread();
    size_t landed = 0;
    for (; landed < own->pending.size() && own->pending[landed].group < own->commits - newest; landed++) {
        const Copy &copy = own->pending[landed];
        if (copy.valid)
            memcpy(copy.shared, copy.global, 16);
        else
            memset(copy.shared, 0, 16);
        const uint32_t piece = piece_at(copy.shared);
        pieces[piece].state = LANDED;
        pieces[piece].lanes = 1u << thread_linear() % WARP_LANES;
        own->landed.push_back(piece);
    }
    own->pending.erase(own->pending.begin(), own->pending.begin() + (long)landed);
}

void async_copies_seen_by_warp(const void *shared, Place place)
{
    const uint32_t at = piece_at(shared);
    if (at >= pieces.size() || pieces[at].state == PLAIN)
        return;
    const Piece &piece = pieces[at];
    if (piece.state == BEGUN)
        defect("line %d reads what thread %u began to copy at line %d and has not waited for", place.line, piece.copier,
               piece.line);
    if (piece.copier / WARP_LANES != thread_linear() / WARP_LANES)
        defect("line %d reads what thread %u of another warp copied at line %d: no __syncthreads behind its wait",
               place.line, piece.copier, piece.line);
    if (piece.lanes != 0xffffffffu)
        defect("line %d reads what thread %u copied at line %d: no __syncwarp behind its wait", place.line,
               piece.copier, piece.line);
}

} // namespace cuda_on_cpu
