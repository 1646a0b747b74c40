// The fake driver: streams, events, captures and graphs.
#include <algorithm>

#include "fake.h"

using namespace fake;

// ------------------------------------------------------------------------------------------------------------- streams

EXPORT Result cuStreamCreate(void** stream, unsigned flags) {
  Context* context;
  if (const Result result = current(&context)) return result;
  if (flags > 1) return INVALID_VALUE;
  *stream = made<Stream>(context, flags == 0);
  return SUCCESS;
}

EXPORT Result cuStreamSynchronize(void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  const Result result = finish(stream);
  return context->broken ? context->broken : result;
}

EXPORT Result cuStreamDestroy_v2(void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (stream == &state().first) return INVALID_HANDLE;
  // What is on it is done all the same.
  work_off(stream);
  stream->alive = false;
  return SUCCESS;
}

EXPORT Result cuStreamQuery(void* handle) {
  Context* context;
  Stream* stream;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  std::lock_guard<std::mutex> hold(stream->lock);
  return stream->queue.empty() ? SUCCESS : NOT_READY;
}

EXPORT Result cuStreamWaitEvent(void* handle, void* of, unsigned) {
  Context* context;
  Stream* stream;
  Event* event;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (const Result result = known(of, context, &event)) return result;
  if (Stream* other = event->stream) work_off(other, event);
  return SUCCESS;
}

// -------------------------------------------------------------------------------------------------------------- events

EXPORT Result cuEventCreate(void** event, unsigned flags) {
  Context* context;
  if (const Result result = current(&context)) return result;
  if (flags > 7) return INVALID_VALUE;
  *event = made<Event>(context, !(flags & 2));
  return SUCCESS;
}

EXPORT Result cuEventDestroy_v2(void* handle) {
  Context* context;
  Event* event;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &event)) return result;
  event->alive = false;
  return SUCCESS;
}

EXPORT Result cuEventRecord(void* handle, void* on) {
  Context* context;
  Stream* stream;
  Event* event;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &event)) return result;
  if (const Result result = known(on, context, &stream)) return result;
  event->stream = stream;
  event->state = stream->capture ? Event::Captured : Event::Queued;
  return enqueue(stream, {[=]() -> Result {
    event->milliseconds = now_in_milliseconds();
    event->state = Event::Passed;
    return SUCCESS;
  }, event});
}

EXPORT Result cuEventSynchronize(void* handle) {
  Context* context;
  Event* event;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &event)) return result;
  if (event->state == Event::Captured) return CAPTURED_EVENT;
  Stream* stream = event->stream;
  const Result result = stream ? finish(stream, event) : SUCCESS;
  return context->broken ? context->broken : result;
}

EXPORT Result cuEventQuery(void* handle) {
  Context* context;
  Event* event;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &event)) return result;
  if (event->state == Event::Captured) return CAPTURED_EVENT;
  return event->state == Event::Queued ? NOT_READY : SUCCESS;
}

EXPORT Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  Context* context;
  Event *first, *last;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(from, context, &first)) return result;
  if (const Result result = known(to, context, &last)) return result;
  for (const Event* event : {first, last}) {
    if (event->state == Event::Captured) return CAPTURED_EVENT;
    if (!event->timed || event->state == Event::Never) return INVALID_HANDLE;
  }
  if (first->state == Event::Queued || last->state == Event::Queued) return NOT_READY;
  *milliseconds = static_cast<float>(last->milliseconds - first->milliseconds);
  return SUCCESS;
}
EXPORT Result cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return cuEventElapsedTime(milliseconds, from, to); }

// ------------------------------------------------------------------------------------------------------------ captures

EXPORT Result cuStreamBeginCapture_v2(void* handle, unsigned mode) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  if (mode > 2) return INVALID_VALUE;
  std::lock_guard<std::mutex> hold(stream->lock);
  if (stream == &state().first || stream->capture) return CAPTURE_UNSUPPORTED;
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->blocking = stream->blocking;
  stream->capture = capture;
  stream->captured.clear();
  std::lock_guard<std::mutex> hold_all(state().lock);
  state().captures.push_back(capture);
  return SUCCESS;
}

EXPORT Result cuStreamEndCapture(void* handle, void** graph) {
  Context* context;
  Stream* stream;
  *graph = nullptr;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  std::vector<Item> captured;
  std::shared_ptr<Capture> capture;
  {
    std::lock_guard<std::mutex> hold(stream->lock);
    capture = stream->capture;
    if (!capture) return INVALID_VALUE;
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    stream->capture.reset();
    captured.swap(stream->captured);
    std::lock_guard<std::mutex> hold_all(state().lock);
    auto& all = state().captures;
    all.erase(std::remove(all.begin(), all.end(), capture), all.end());
  }
  if (capture->invalid) return CAPTURE_INVALIDATED;
  *graph = made<Graph>(context, std::move(captured));
  return SUCCESS;
}

EXPORT Result cuStreamIsCapturing(void* handle, int* status) {
  Context* context;
  Stream* stream;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &stream)) return result;
  std::lock_guard<std::mutex> hold(stream->lock);
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return SUCCESS;
}

// -------------------------------------------------------------------------------------------------------------- graphs

EXPORT Result cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long flags) {
  Context* context;
  Graph* graph;
  if (const Result result = current_outside_of_captures(&context)) return result;
  if (const Result result = known(handle, context, &graph)) return result;
  if (flags > 15) return INVALID_VALUE;
  *executable = made<Executable>(context, graph->items);
  return SUCCESS;
}

EXPORT Result cuGraphUpload(void* handle, void* on) {
  Context* context;
  Stream* stream;
  Executable* executable;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &executable)) return result;
  return known(on, context, &stream);
}

EXPORT Result cuGraphLaunch(void* handle, void* on) {
  Context* context;
  Stream* stream;
  Executable* executable;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &executable)) return result;
  if (const Result result = known(on, context, &stream)) return result;
  {
    std::lock_guard<std::mutex> hold(state().lock);
    ++state().counts["graphs"];
  }
  for (const Item& item : executable->items) {
    if (const Result result = enqueue(stream, {item.work})) return result;
  }
  return SUCCESS;
}

EXPORT Result cuGraphExecDestroy(void* handle) {
  Context* context;
  Executable* executable;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &executable)) return result;
  executable->alive = false;
  executable->items.clear();
  return SUCCESS;
}

EXPORT Result cuGraphDestroy(void* handle) {
  Context* context;
  Graph* graph;
  if (const Result result = current(&context)) return result;
  if (const Result result = known(handle, context, &graph)) return result;
  graph->alive = false;
  graph->items.clear();
  return SUCCESS;
}
