// A wasi:http component in C with nothing below it: no libc, no generated bindings. It calls the host by the
// component model's canonical ABI, which is small enough to be read here: handles and numbers are i32, strings and
// lists are (pointer, length), and what does not fit into one result comes back through memory.
//
// Paths: /healthz answers 200 "ok". /loop computes for ever, /grow takes memory for ever, /abort traps: three ways for
// a guest to go wrong, for whoever wants to see what Cairn does about it. Everything else is the page.

typedef unsigned int u32;
typedef unsigned char u8;
typedef int handle;

#define HTTP(fn) __attribute__((import_module("wasi:http/types@0.2.0"), import_name(fn)))
#define STREAMS(fn) __attribute__((import_module("wasi:io/streams@0.2.0"), import_name(fn)))
#define EXPORT(fn) __attribute__((export_name(fn)))

HTTP("[constructor]fields") handle fields_new(void);
HTTP("[method]fields.append") void fields_append(handle, const char *, u32, const char *, u32, u8 *result);
HTTP("[method]fields.entries") void fields_entries(handle, u32 *list);
HTTP("[resource-drop]fields") void fields_drop(handle);
HTTP("[method]incoming-request.path-with-query") void request_path(handle, u32 *option);
HTTP("[method]incoming-request.headers") handle request_headers(handle);
HTTP("[resource-drop]incoming-request") void request_drop(handle);
HTTP("[constructor]outgoing-response") handle response_new(handle headers);
HTTP("[method]outgoing-response.set-status-code") int response_status(handle, u32 status);
HTTP("[method]outgoing-response.body") void response_body(handle, u32 *result);
// The eight numbers after the first are a flattened result<outgoing-response, error-code>: 0 and the response, or 1
// and an error, which this example never sends.
HTTP("[static]response-outparam.set")
void response_set(handle out, int is_error, handle response, int, long long, int, int, int, int);
HTTP("[method]outgoing-body.write") void body_write(handle, u32 *result);
HTTP("[static]outgoing-body.finish") void body_finish(handle, int has_trailers, handle trailers, u32 *result);
STREAMS("[method]output-stream.blocking-write-and-flush") void stream_write(handle, const u8 *, u32, u32 *result);
STREAMS("[resource-drop]output-stream") void stream_drop(handle);

// The host asks for memory through this for every string and list that it passes in. An instance answers one request
// and is thrown away, so nothing is ever freed.
extern u8 __heap_base;
static u32 heap_used;

EXPORT("cabi_realloc") void *cabi_realloc(void *old, u32 old_size, u32 align, u32 size) {
  (void)old_size;
  if (old) __builtin_trap();
  u32 start = ((u32)&__heap_base + heap_used + align - 1) & ~(align - 1);
  heap_used = start + size - (u32)&__heap_base;
  u32 end = start + size, have = (u32)__builtin_wasm_memory_size(0) << 16;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (u32)-1) __builtin_trap();
  return (void *)start;
}

// The response, and the characters that HTML gives a meaning.
static u8 page[16 << 10];
static u32 page_length;

static void put(const char *text) {
  while (*text && page_length < sizeof page) page[page_length++] = (u8)*text++;
}

static void put_number(u32 number) {
  char digits[11];
  u32 at = sizeof digits - 1;
  digits[at] = 0;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  put(digits + at);
}

static void put_escaped(const u8 *text, u32 length) {
  if (length > 1024) length = 1024;
  for (u32 i = 0; i < length; i++) {
    char one[2] = {(char)text[i], 0};
    put(text[i] == '<' ? "&lt;" : text[i] == '>' ? "&gt;" : text[i] == '&' ? "&amp;" : text[i] == '"' ? "&quot;" : one);
  }
}

static u32 length_of(const char *text) {
  u32 length = 0;
  while (text[length]) length++;
  return length;
}

static int is(const u8 *path, u32 length, const char *expected) {
  for (u32 i = 0; i < length; i++)
    if (!expected[i] || path[i] != (u8)expected[i]) return 0;
  return !expected[length];
}

static void misbehave(const u8 *path, u32 length) {
  if (is(path, length, "/loop"))
    for (volatile u32 turns = 0;; turns++) {}
  if (is(path, length, "/grow"))
    while (__builtin_wasm_memory_grow(0, 16) != (u32)-1) {}
  if (is(path, length, "/abort")) __builtin_trap();
}

static void answer(handle out, u32 status, const char *type) {
  u32 result[8];
  u8 small[4];
  handle headers = fields_new();
  fields_append(headers, "content-type", 12, type, length_of(type), small);
  handle response = response_new(headers);
  response_status(response, status);
  response_body(response, result);
  handle body = (handle)result[1];
  response_set(out, 0, response, 0, 0, 0, 0, 0, 0);
  body_write(body, result);
  handle stream = (handle)result[1];
  // One call takes 4096 bytes at most.
  for (u32 sent = 0; sent < page_length; sent += 4096) {
    u32 part = page_length - sent < 4096 ? page_length - sent : 4096;
    stream_write(stream, page + sent, part, result);
    if (*(u8 *)result) break;
  }
  stream_drop(stream);
  u32 finished[16];
  body_finish(body, 0, 0, finished);
}

EXPORT("wasi:http/incoming-handler@0.2.0#handle") void handle_request(handle request, handle out) {
  u32 option[3] = {0}, list[2] = {0};
  request_path(request, option);
  const u8 *path = *(u8 *)option ? (const u8 *)option[1] : (const u8 *)"/";
  u32 length = *(u8 *)option ? option[2] : 1;
  handle headers = request_headers(request);
  fields_entries(headers, list);
  fields_drop(headers);
  misbehave(path, length);
  if (is(path, length, "/healthz")) {
    put("ok\n");
    answer(out, 200, "text/plain; charset=utf-8");
  } else {
    put("<!doctype html><meta charset=utf-8><title>Cairn</title>\n"
        "<h1>Hello from a WebAssembly component on Cairn</h1>\n<p>You asked for <code>");
    put_escaped(path, length);
    put("</code> with ");
    put_number(list[1]);
    put(" request headers.</p>\n");
    answer(out, 200, "text/html; charset=utf-8");
  }
  request_drop(request);
}
