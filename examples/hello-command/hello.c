// A WASI command in plain C: shows what it was given, then does what its arguments say, in order.
//   exit N         end with this code            write FILE TEXT   make a file
//   loop           compute for ever              read FILE         print a file
//   grow           take memory until refused     abort             trap
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int fail(const char *what, const char *name) {
  fprintf(stderr, "%s %s: %s\n", what, name, strerror(errno));
  return 1;
}

static int write_file(const char *name, const char *text) {
  FILE *file = fopen(name, "w");
  if (!file || fputs(text, file) < 0 || fclose(file) != 0) return fail("write", name);
  return 0;
}

static int read_file(const char *name) {
  FILE *file = fopen(name, "r");
  if (!file) return fail("read", name);
  for (int c; (c = fgetc(file)) != EOF;) putchar(c);
  return fclose(file);
}

static void grow(void) {
  for (unsigned long taken = 0;; taken += 1 << 20) {
    // volatile: else the compiler sees that nobody reads it, and takes none.
    volatile char *part = malloc(1 << 20);
    if (!part) {
      printf("refused after %lu MiB\n", taken >> 20);
      return;
    }
    part[0] = 1;
  }
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("Hello from a WebAssembly command on Cairn\n");
  for (int i = 0; i < argc; i++) printf("arg %d: %s\n", i, argv[i]);
  for (char **variable = environ; variable && *variable; variable++) printf("env %s\n", *variable);
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    int left = argc - i - 1;
    if (!strcmp(word, "exit") && left >= 1) return atoi(argv[i + 1]);
    if (!strcmp(word, "loop"))
      for (volatile unsigned turns = 0;; turns++) {}
    if (!strcmp(word, "grow")) grow();
    if (!strcmp(word, "abort")) abort();
    if (!strcmp(word, "write") && left >= 2) {
      if (write_file(argv[i + 1], argv[i + 2])) return 1;
      i += 2;
    } else if (!strcmp(word, "read") && left >= 1) {
      if (read_file(argv[i + 1])) return 1;
      i += 1;
    }
  }
  return 0;
}
