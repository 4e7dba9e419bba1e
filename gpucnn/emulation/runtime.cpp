// Runs a CUDA kernel on the CPU, to the bit and to the barrier: one fiber per CUDA thread, all on one system
// thread.
//
// A fiber runs until it meets a barrier or a warp operation, ends, or touches inaccessible memory; then the next
// one runs, in forward, reversed or random order. So a missing barrier shows as NaN (shared memory starts as NaN) or as
// bits that change with the order, a barrier that not all threads reach as an error with its line, and a stray address
// as an error with the thread's and the block's number. x86-64 only, because of `cuh_switch`.
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <utility>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define LEAVE(save, stack, size) __sanitizer_start_switch_fiber(save, stack, size)
#define ENTER(fake, stack, size) __sanitizer_finish_switch_fiber(fake, stack, size)
#else
#define LEAVE(save, stack, size) ((void)(stack))
#define ENTER(fake, stack, size) ((void)(fake))
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct Context {  // cuda_host.h has the same
  uint3 threadIdx, blockIdx;
  dim3 blockDim, gridDim;
  void (*block_barrier)(int line);
  uint64_t (*warp_operation)(unsigned mask, uint64_t value, int source_lane);
  int (*lane)();
};

extern "C" void cuh_switch(void** save, void* to);
asm(  // another processor's version: push the registers that a callee keeps, swap the stacks, pop, return
    ".text\n.local cuh_switch\n.type cuh_switch,@function\ncuh_switch:\n pushq %rbp\n pushq %rbx\n pushq %r12\n"
    " pushq %r13\n pushq %r14\n pushq %r15\n movq %rsp,(%rdi)\n movq %rsi,%rsp\n popq %r15\n popq %r14\n popq %r13\n"
    " popq %r12\n popq %rbx\n popq %rbp\n ret\n.size cuh_switch,.-cuh_switch\n");

enum State : uint8_t { NEW, READY, AT_WARP_OPERATION, AT_BARRIER, DONE };
struct Fiber {
  void* sp;
  char* stack;
  void* fake;
};
struct Thread {
  uint3 index;
  Fiber* fiber;
  State state;
  unsigned mask;
  int source, line;
  uint64_t value, result;
};

constexpr size_t STACK = 64 << 10;
static Context context;
static std::vector<Thread> threads;
static std::vector<Fiber*> idle;
static std::vector<unsigned> order;
static unsigned count, position;  // position: place in `order` of the thread that runs
static Thread* current;
static void (*body)(void**);
static void** arguments;
static void* scheduler;
static const void* scheduler_stack;
static size_t scheduler_size;
static char alternative[1 << 16], message[300];
static sigjmp_buf trap;

[[noreturn]] static void fail(const char* what) {
  const uint3 t = context.threadIdx, b = context.blockIdx;
  const char* form = "%s; thread (%u, %u, %u) of block (%u, %u, %u)";
  snprintf(message, sizeof message, form, what, t.x, t.y, t.z, b.x, b.y, b.z);
  siglongjmp(trap, 1);  // the fibers are abandoned: kernels own nothing
}

static void to_scheduler() {
  Fiber* f = current->fiber;
  LEAVE(&f->fake, scheduler_stack, scheduler_size);
  cuh_switch(&f->sp, scheduler);
  ENTER(f->fake, &scheduler_stack, &scheduler_size);
}

static void fiber_main() {
  ENTER(nullptr, &scheduler_stack, &scheduler_size);
  for (;;) {
    body(arguments);
    current->state = DONE;
    Fiber* f = current->fiber;
    if (position + 1 < count && threads[order[position + 1]].state == NEW) {  // met no barrier: go on with the next
      current = &threads[order[++position]];
      current->fiber = f;
      current->state = READY;
      context.threadIdx = current->index;
    } else {
      idle.push_back(f);
      to_scheduler();
    }
  }
}

static Fiber* get_fiber() {
  if (!idle.empty()) {
    Fiber* f = idle.back();
    idle.pop_back();
    return f;
  }
  // A stack between two inaccessible pages.
  char* s = (char*)mmap(nullptr, STACK + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
  mprotect(s, STACK, PROT_READ | PROT_WRITE);
  void** sp = (void**)(s + STACK);
  *--sp = nullptr;
  *--sp = (void*)fiber_main;  // where cuh_switch's ret goes, with rsp = 8 mod 16 as at a function's start
  for (int i = 0; i < 6; i++) *--sp = nullptr;
  return new Fiber{sp, s, nullptr};
}

static void resume(Thread& t) {
  if (t.state == NEW) t.fiber = get_fiber();
  t.state = READY;
  current = &t;
  context.threadIdx = t.index;
  void* fake = nullptr;
  LEAVE(&fake, t.fiber->stack, STACK);
  cuh_switch(&scheduler, t.fiber->sp);
  ENTER(fake, nullptr, nullptr);
}

static void run_block() {
  unsigned i = 0, live = count;
  const dim3 size = context.blockDim;
  for (auto& t : threads) {
    t.state = NEW;
    t.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    i++;
  }
  while (live) {
    for (bool any = true; any;) {  // until every thread is done or waits for the whole block
      any = false;
      for (unsigned warp = 0; warp < count; warp = position) {
        const unsigned end = warp + 32 < count ? warp + 32 : count;  // 32 at a time, as long as one of them can run
        for (bool ran = true; ran; any |= ran)
          for (ran = false, position = warp; position < end; position++)
            if (threads[order[position]].state <= READY) {
              ran = true;
              resume(threads[order[position]]);
            }
      }
    }
    unsigned waiting = 0, done = 0;
    Thread* other = nullptr;
    for (auto& t : threads) {
      done += t.state == DONE;
      if (t.state != AT_BARRIER) continue;
      if (other && other->line != t.line) fail("threads wait at different __syncthreads");
      waiting++;
      other = &t;
    }
    live = count - done;
    if (waiting != live) fail("deadlock: a warp operation waits for a lane that never arrives");
    if (waiting && done) fail("__syncthreads is not reached by threads that returned");
    for (auto& t : threads)
      if (t.state == AT_BARRIER) t.state = READY;
  }
}

static void block_barrier(int line) {
  current->state = AT_BARRIER;
  current->line = line;
  to_scheduler();
}
static int lane() { return int(current - &threads[0]) & 31; }

// Each lane of mask leaves a value and gets lane `source`'s.
static uint64_t warp_operation(unsigned mask, uint64_t value, int source) {
  const unsigned base = unsigned(current - &threads[0]) & ~31u;
  if (!(mask >> lane() & 1)) fail("warp operation: the calling lane is not in its mask");
  current->value = value;
  current->source = source;
  current->mask = mask;
  current->state = AT_WARP_OPERATION;
  for (unsigned l = 0; l < 32; l++)
    if (mask >> l & 1) {
      if (base + l >= count || threads[base + l].state == DONE)
        fail("warp operation: the mask names a lane that returned or is absent");
      if (threads[base + l].state != AT_WARP_OPERATION || threads[base + l].mask != mask) {
        to_scheduler();
        return current->result;
      }
    }
  for (unsigned l = 0; l < 32; l++)
    if (mask >> l & 1) {  // the last to arrive exchanges the values and releases the others
      Thread& t = threads[base + l];
      if (!(mask >> t.source & 1)) fail("warp operation: the source lane is not in the mask");
      t.result = threads[base + unsigned(t.source)].value;
      t.state = READY;
    }
  return current->result;
}

static void on_stray_address(int, siginfo_t* info, void*) {
  char what[64];
  snprintf(what, sizeof what, "illegal address %p", info->si_addr);
  fail(what);
}

extern "C" Context* cuh_runtime() {
  context.block_barrier = block_barrier;
  context.warp_operation = warp_operation;
  context.lane = lane;
  return &context;
}

// configuration: grid x y z, block x y z, order (0 forward, 1 reversed, else the seed of a random one). [first, last)
// is the kernel's shared memory. Returns what went wrong, or "".
extern "C" const char* cuh_launch(void (*kernel)(void**), void** args, const unsigned* configuration, char* first,
                                  char* last) {
  const unsigned* c = configuration;
  context.gridDim = {c[0], c[1], c[2]};
  context.blockDim = {c[3], c[4], c[5]};
  count = c[3] * c[4] * c[5];
  const uint64_t blocks = uint64_t(c[0]) * c[1] * c[2], seed = c[6];
  if (count < 1 || count > 1024 || blocks < 1 || c[1] > 65535 || c[2] > 65535) return "bad launch configuration";
  body = kernel;
  arguments = args;
  threads.assign(count, Thread{});
  order.resize(count);
  message[0] = 0;
  uint64_t random = seed;
  auto draw = [&] { return (random = random * 6364136223846793005ull + 1442695040888963407ull) >> 33; };
  for (unsigned i = 0; i < count; i++) order[i] = seed == 1 ? count - 1 - i : i;
  for (unsigned i = count; seed > 1 && i > 1; i--) std::swap(order[i - 1], order[draw() % i]);
  stack_t stack{}, old_stack;
  stack.ss_sp = alternative;
  stack.ss_size = sizeof alternative;
  sigaltstack(&stack, &old_stack);
  struct sigaction action{}, old_segv, old_bus;
  action.sa_sigaction = on_stray_address;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);
  if (!sigsetjmp(trap, 1))
    for (uint64_t k = 0; k < blocks; k++) {
      const uint64_t b = seed == 1 ? blocks - 1 - k : k;
      context.blockIdx = {unsigned(b % c[0]), unsigned(b / c[0] % c[1]), unsigned(b / c[0] / c[1])};
      if (first) memset(first, 0xff, size_t(last - first));
      run_block();
    }
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  sigaltstack(&old_stack, nullptr);
  return message;
}
