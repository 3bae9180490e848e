/* ernie: run Baidu's ERNIE 4.5 language models inside your application.
 *
 * A model is one file, mapped and used in place; a session is one timeline of tokens on it.
 * The whole of a small program:
 *
 *     #include "ernie.h"
 *     #include <stdio.h>
 *
 *     static int on_token(const ernie_token *token, void *user)
 *     {
 *         (void)user;
 *         fwrite(token->text, 1, token->n_text, stdout);
 *         return 0;                                   // non-zero stops the answer
 *     }
 *
 *     int main(void)
 *     {
 *         ernie_model *model = NULL;
 *         ernie_session *session = NULL;
 *         ernie_error error = { ERNIE_OK, "" };
 *         if (ernie_model_open(&model, "ernie-demo.ernie", NULL, &error) == ERNIE_OK
 *             && ernie_session_create(&session, model, NULL, &error) == ERNIE_OK)
 *             ernie_session_ask(session, "写一首五言绝句", NULL, on_token, NULL, NULL, &error);
 *         if (error.code != ERNIE_OK) fprintf(stderr, "%s\n", error.message);
 *         ernie_session_free(session);
 *         ernie_model_close(model);
 *         return error.code != ERNIE_OK;
 *     }
 *
 * Rules that hold everywhere:
 *   - Options structs start with `size`; use the _INIT macro (C) or the _init function (C++,
 *     bindings). Zero means default in every field. NULL in place of an options struct means all
 *     defaults.
 *   - Functions that can fail return ernie_status (0 is ERNIE_OK, failures are negative) and write
 *     one sentence into the caller's ernie_error, which may be NULL. It is written on failure only.
 *     NULL where a pointer is needed gives ERNIE_INVALID and leaves everything as it was.
 *   - The library never prints, exits or aborts and keeps no process-wide state (asked for
 *     "amx" by name, it changes one thing in the process: ernie_model_options, cpu).
 *   - close/free functions accept NULL.
 *   - Text is UTF-8. Paths are passed to the system as they are (UTF-8 on Windows).
 *   - The same model file, tokens, parameters and seed give the same text in the same build on the
 *     same kind of processor, for any number of threads. Its instruction sets are tested to agree
 *     to the last bit, so `cpu` changes the speed only. Another compiler, C library or version of
 *     ernie may give another text; so may another processor, for which the C library picks its exp.
 *   - Thread rules use three phrases: "any thread", "one thread per session", "before first use".
 *     A model is immutable after open and may be shared by sessions on many threads.
 *
 * The header compiles as C99 and as C++11. */
#ifndef ERNIE_H
#define ERNIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef ERNIE_API
#if defined(_WIN32) && defined(ERNIE_BUILD_SHARED)
#define ERNIE_API __declspec(dllexport)
#elif defined(_WIN32) && defined(ERNIE_USE_SHARED)
#define ERNIE_API __declspec(dllimport)
#elif defined(__GNUC__)
#define ERNIE_API __attribute__((visibility("default")))
#else
#define ERNIE_API
#endif
#endif

/* ---- Version ------------------------------------------------------------------------------- */

#define ERNIE_VERSION_MAJOR 0
#define ERNIE_VERSION_MINOR 1
#define ERNIE_VERSION_PATCH 0
#define ERNIE_VERSION "0.1.0"

/* The library's version, "0.1.0". Any thread. */
ERNIE_API const char *ernie_version(void);

/* ---- Status -------------------------------------------------------------------------------- */

/* name, value, text. Values are fixed for ever; new ones are appended. */
#define ERNIE_STATUS_MAP(X)                                                   \
    X(OK, 0, "ok")                                                            \
    X(INVALID, -1, "an argument is missing or out of range")                  \
    X(NO_MEMORY, -2, "out of memory")                                         \
    X(IO, -3, "a file could not be opened, read or written")                  \
    X(FORMAT, -4, "a file is not what it should be")                          \
    X(UNSUPPORTED, -5, "made for a newer version, or not offered by this build") \
    X(FULL, -6, "the context or the caller's buffer is too small")            \
    X(CANCELLED, -7, "cancelled by the caller")                               \
    X(CORRUPT, -8, "a checksum does not match: the data are damaged")         \
    X(MISMATCH, -9, "the file belongs to another model")

typedef enum ernie_status {
#define ERNIE_STATUS_ENUM(name, value, text) ERNIE_##name = value,
    ERNIE_STATUS_MAP(ERNIE_STATUS_ENUM)
#undef ERNIE_STATUS_ENUM
    ERNIE_STATUS_FORCE_INT = 0x7fffffff
} ernie_status;

/* The table's text for a status, "unknown status" for anything else. Never NULL. Any thread. */
ERNIE_API const char *ernie_status_text(ernie_status status);

/* A failure in words: names the thing and the numbers. Owned by the caller. */
typedef struct ernie_error {
    ernie_status code;
    char message[256]; /* UTF-8, always terminated */
} ernie_error;

/* ---- Callbacks ----------------------------------------------------------------------------- */

/* All memory of a model or session comes from one function, malloc, realloc and free in one:
 *   ptr NULL:     allocate new_size bytes, aligned for any scalar type (the library aligns further)
 *   new_size 0:   free ptr (old_size bytes); the result is ignored
 *   otherwise:    resize ptr from old_size to new_size, keeping the smaller of the two
 * NULL means failure; a failed resize leaves ptr as it was. Must be safe on any thread that uses
 * the model or its sessions. The allocator must outlive the objects made with it. */
typedef struct ernie_allocator {
    void *(*resize)(void *user, void *ptr, size_t old_size, size_t new_size);
    void *user;
} ernie_allocator;

typedef enum ernie_log_level {
    ERNIE_LOG_DEBUG = 0,
    ERNIE_LOG_INFO = 1,
    ERNIE_LOG_WARN = 2,
    ERNIE_LOG_FORCE_INT = 0x7fffffff
} ernie_log_level;

/* One line without a newline. Called on the thread that called the library. */
typedef void (*ernie_log_fn)(ernie_log_level level, const char *line, void *user);

/* `done` of `total` bytes or tokens; `what` is a short phrase ("verifying", "reading the prompt").
 * A non-zero return cancels: the call returns ERNIE_CANCELLED. */
typedef int (*ernie_progress_fn)(const char *what, uint64_t done, uint64_t total, void *user);

/* A flag that any thread may set to stop a call in progress within 50 ms. Zero-initialise it.
 * Opening by reading in (no_mmap, a source) also has to give back what it has read: milliseconds on
 * the huge pages that the default allocator asks Linux for, up to a tenth of a second a GB
 * elsewhere. */
typedef struct ernie_cancel {
    volatile int32_t requested;
} ernie_cancel;

ERNIE_API void ernie_cancel_request(ernie_cancel *cancel);  /* any thread; NULL is ignored */
ERNIE_API void ernie_cancel_clear(ernie_cancel *cancel);    /* any thread; NULL is ignored */

/* Where a model's bytes come from when they are not a file on disk: an archive, an encrypted asset.
 * `read` fills exactly n bytes from `offset` and returns 0, or non-zero on failure. It must be safe
 * on any thread. It must outlive the model. */
typedef struct ernie_source {
    int (*read)(void *user, uint64_t offset, void *buffer, size_t n);
    uint64_t n_bytes;
    void *user;
} ernie_source;

/* ---- Model --------------------------------------------------------------------------------- */

typedef struct ernie_model ernie_model;
struct ernie_session_options;
struct ernie_stream_options;

#define ERNIE_MEMORY_UNLIMITED UINT64_MAX

typedef struct ernie_model_options {
    uint32_t size;                    /* set by the initialiser */
    bool no_mmap;                     /* read the file into memory instead of mapping it */
    bool verify;                      /* check every checksum while opening (reads the whole file) */
    const ernie_allocator *allocator; /* NULL: the C library's; must outlive the model */
    ernie_log_fn log;                 /* NULL: no log */
    void *log_user;
    ernie_progress_fn progress; /* NULL: none; called while reading or verifying */
    void *progress_user;
    ernie_cancel *cancel;   /* NULL: none; stops opening, also when it was set before */
    const char *cpu;        /* instruction set: NULL or "auto" for the best, else one by name, for
                               tests and comparisons: "base", "avx2", "avxvnni", "avx512",
                               "avx512vbmi", "amx", "neon", "i8mm". "amx" is never chosen by itself: it asks Linux for
                               AMX's registers, and from then on sigaltstack refuses stacks smaller
                               than AT_MINSIGSTKSZ (about 11 KiB) in this process */
    const char *backend;    /* NULL or "auto", "cpu" */
    bool no_copy;           /* a mapped file stays in its mapping: see ernie_model_open */
    uint64_t memory; /* bytes that the model and all of its sessions may take, everything counted:
                        weights, keys and values, scratch, experts kept, buffers. 0: what the machine
                        (or its control group) has available less a reserve, looked at for models with
                        experts only; ERNIE_MEMORY_UNLIMITED: no ceiling, nothing streamed */
    const struct ernie_session_options *session; /* the session that memory is planned for while
                                                    opening; NULL: defaults. Not kept */
    const struct ernie_stream_options *stream; /* how experts come from disk; NULL: defaults. Not kept */
} ernie_model_options;

#ifndef __cplusplus
#define ERNIE_MODEL_OPTIONS_INIT { .size = (uint32_t)sizeof(ernie_model_options) }
#endif
ERNIE_API ernie_model_options ernie_model_options_init(void);

/* Which expert gives way to another one. */
typedef enum ernie_stream_policy {
    ERNIE_STREAM_DEFAULT = 0, /* LFRU */
    ERNIE_STREAM_LRU = 1,     /* the one used longest ago */
    ERNIE_STREAM_LFRU = 2,    /* by age in steps that double; among equals the one used less often */
    ERNIE_STREAM_FORCE_INT = 0x7fffffff
} ernie_stream_policy;

/* How experts come from disk when a model does not fit. None of it changes results. */
typedef struct ernie_stream_options {
    uint32_t size;
    uint32_t n_readers;  /* threads that read, 1 .. 64; 0: 4 */
    bool buffered;       /* read through the system's page cache; without: past it, where that works */
    bool look_ahead;     /* between two misses read what the next layer will probably choose */
    ernie_stream_policy policy;
    uint64_t io_limit;       /* bytes a second that reading is held to; 0: none. For measurements */
    uint32_t io_latency_us;  /* microseconds added to each read. For measurements */
    const char *warm_path;   /* file with the set of experts that memory held last: read when the first
                                session is created, written when the model is closed; what is wrong
                                with it is logged and otherwise ignored. NULL: none */
} ernie_stream_options;

#ifndef __cplusplus
#define ERNIE_STREAM_OPTIONS_INIT { .size = (uint32_t)sizeof(ernie_stream_options) }
#endif
ERNIE_API ernie_stream_options ernie_stream_options_init(void);

/* Open the model file at `path`. The file is mapped; nothing but the header, the index and the
 * tokenizer is read, so opening takes milliseconds whatever the size.
 *
 * Where the system maps files through small pages, decoding is slower than the memory allows. From
 * the first session on a thread of the library then copies a mapped file of 64 MiB or more to huge
 * pages, in the time that no session computes (after ten seconds also at half of one processor),
 * and sessions go on with the copy when it is whole; results are the same to the last bit. Linux
 * only, and only when a quarter of the available memory and 1 GiB stay free. It does not happen
 * with `no_copy`, `no_mmap` or an allocator of the application's. ernie_model_info.pages says where
 * the weights lie.
 *
 *   out      receives the model; NULL after any failure
 *   options  NULL for defaults
 *
 * A model with experts that does not fit into options.memory is streamed: all but the routed
 * experts is read into memory now, the experts are read when they are chosen, and as many as fit
 * are kept (from the first session on, which takes its own memory first). Results are the same to
 * the last bit. The file must stay as it is while the model is open. A model without experts, or
 * one that cannot work even so, is refused with ERNIE_NO_MEMORY and a ceiling that works (the least
 * is known once a model is open: ernie_memory.least_bytes).
 *
 * Returns ERNIE_OK, ERNIE_INVALID (NULL argument, options without a size), ERNIE_IO (cannot be
 * opened or read), ERNIE_FORMAT (not a model file, or its numbers contradict each other),
 * ERNIE_CORRUPT (a checksum of the header, index or tokenizer differs; any record with
 * options.verify), ERNIE_UNSUPPORTED (newer file version or options, unknown weight type,
 * instruction set or backend), ERNIE_NO_MEMORY, ERNIE_CANCELLED. After failure nothing is held.
 * Thread: any thread. */
ERNIE_API ernie_status ernie_model_open(ernie_model **out, const char *path,
                                        const ernie_model_options *options, ernie_error *error);

/* Open a model that lies in memory: `data` [n_bytes], 64-byte aligned, used in place, unchanged and
 * valid until the model is closed. Statuses as ernie_model_open; ERNIE_INVALID also when `data` is
 * not 64-byte aligned. Thread: any thread. */
ERNIE_API ernie_status ernie_model_open_memory(ernie_model **out, const void *data, size_t n_bytes,
                                               const ernie_model_options *options,
                                               ernie_error *error);

/* Open a model through the caller's read function; the bytes are copied into memory of the
 * allocator once. Statuses as ernie_model_open; ERNIE_IO when `read` fails. Thread: any thread. */
ERNIE_API ernie_status ernie_model_open_source(ernie_model **out, const ernie_source *source,
                                               const ernie_model_options *options,
                                               ernie_error *error);

/* Close the model. All of its sessions must have been freed. NULL is ignored. Any thread. */
ERNIE_API void ernie_model_close(ernie_model *model);

typedef enum ernie_chat_format {
    ERNIE_CHAT_NONE = 0,     /* unknown template: only raw prompts */
    ERNIE_CHAT_PLAIN = 1,    /* "User: ...\nAssistant: " */
    ERNIE_CHAT_THINKING = 2, /* <|im_start|> turns, answer after </think> */
    ERNIE_CHAT_FORCE_INT = 0x7fffffff
} ernie_chat_format;

/* What the file says about itself. Strings live as long as the model. */
typedef struct ernie_model_info {
    uint32_t size;
    uint32_t format_version;
    const char *name;         /* as given at conversion, may be "" */
    const char *architecture; /* "ernie4_5" or "ernie4_5_moe" */
    const char *types;        /* weight types by class, "embed w8, attention w4, ..." */
    const char *cpu;          /* instruction set in use, "avx512" */
    uint32_t n_layers, hidden_size, intermediate_size;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t vocab_size;      /* rows of the output layer; logits have this many entries */
    uint32_t n_tokens;        /* tokens of the tokenizer; ids from here on are padding, masked */
    uint32_t context_max;     /* max_position_embeddings */
    uint32_t n_experts, moe_k, moe_intermediate_size, n_shared_experts; /* 0 in dense models */
    uint32_t moe_layer_start, moe_layer_end, moe_layer_interval;
    uint32_t n_mtp_layers;    /* multi-token prediction blocks kept in the file */
    bool tied;                /* output layer is the embedding */
    double rope_theta;
    float rms_norm_eps;
    int32_t bos_id, eos_id, pad_id; /* -1: none */
    ernie_chat_format chat_format;
    float temperature, top_p;       /* generation defaults of the file, 0: none */
    uint64_t n_parameters;          /* without MTP */
    uint64_t n_parameters_active;   /* used for one token */
    uint64_t n_bytes;               /* of the file */
    uint64_t bytes_per_token;       /* weight bytes read to decode one token at context zero */
    uint8_t id[16];                 /* identity: changes when any weight changes */
    const char *pages;              /* where the weights lie now: "mapped", "mapped, huge pages",
                                       "copying" (to huge pages), "copied", "memory" (read in or
                                       the application's), or "streamed" (experts on disk) */
    uint64_t expert_bytes;      /* of one expert as it is read from disk; 0 without experts */
    uint32_t n_moe_layers;      /* layers with experts */
    bool streams;               /* experts come from disk */
} ernie_model_info;

/* Fill `info` (whose `size` the caller has set to sizeof *info; fields beyond it, and beyond what
 * this library knows, are not written). Returns ERNIE_OK or ERNIE_INVALID. Any thread. */
ERNIE_API ernie_status ernie_model_get_info(const ernie_model *model, ernie_model_info *info);

/* One record of the file: a tensor, or one expert (gate, up and down together). */
typedef struct ernie_record_info {
    uint32_t size;
    const char *name;     /* "layers.3.experts.17": points into name_buffer of this very struct; in
                             a copy it still points into the original, so read name_buffer there */
    const char *type;     /* "w4", "w4+w8" for an expert whose two matrices differ */
    uint64_t n_rows, n_cols; /* of the matrix; of gate+up in an expert */
    uint64_t offset, n_bytes;
    uint64_t checksum;    /* XXH3-64 of the n_bytes */
    char name_buffer[64];
} ernie_record_info;

/* Number of records, and record `index` (0 .. count - 1) into `info` (size set by the caller).
 * Returns ERNIE_OK or ERNIE_INVALID. Any thread. */
ERNIE_API size_t ernie_model_record_count(const ernie_model *model);
ERNIE_API ernie_status ernie_model_record(const ernie_model *model, size_t index,
                                          ernie_record_info *info);

/* How fast experts can be read from this model's file, read as streaming reads them, for about
 * `seconds` (0.01 to 60); *bytes_per_second receives the rate. Returns ERNIE_OK, ERNIE_INVALID,
 * ERNIE_UNSUPPORTED (the model is not streamed), ERNIE_IO, ERNIE_NO_MEMORY, ERNIE_CANCELLED
 * (*cancel, which may be NULL, was set). Any thread. */
ERNIE_API ernie_status ernie_model_read_rate(const ernie_model *model, double seconds,
                                             const ernie_cancel *cancel, double *bytes_per_second,
                                             ernie_error *error);

/* Check every checksum of the file: header, sections, each tensor, each expert. Reads all of it.
 * Returns ERNIE_OK, ERNIE_CORRUPT (names the first damaged record and its offset), ERNIE_FORMAT
 * (the header has changed since the model was opened), ERNIE_CANCELLED (the progress callback or
 * flag said so); for a streamed model, which takes an expert's memory meanwhile, also ERNIE_IO and
 * ERNIE_NO_MEMORY. The model stays usable. Any thread. */
ERNIE_API ernie_status ernie_model_verify(const ernie_model *model, ernie_progress_fn progress,
                                          void *user, ernie_cancel *cancel, ernie_error *error);

/* ---- Tokens -------------------------------------------------------------------------------- */

typedef enum ernie_tokenize_mode {
    ERNIE_TOKENIZE_TEXT = 0,    /* as the sentencepiece library encodes plain text */
    ERNIE_TOKENIZE_SPECIAL = 1, /* special tokens written out ("</s>", "<|begin_of_sentence|>")
                                   become their ids: for prompts that the application wrote */
    ERNIE_TOKENIZE_LITERAL = 2, /* nothing in the text becomes a special token: for text that
                                   users wrote */
    ERNIE_TOKENIZE_FORCE_INT = 0x7fffffff
} ernie_tokenize_mode;

/* Turn text into ids.
 *
 *   text      [n_text] bytes, any bytes; broken UTF-8 is read as U+FFFD as sentencepiece does
 *   ids       [capacity], may be NULL when capacity is 0
 *   n_ids     receives the number of ids of the whole text, also on ERNIE_FULL
 *
 * Linear in n_text up to a logarithm. Returns ERNIE_OK, ERNIE_FULL (more ids than capacity; the
 * first `capacity` are written), ERNIE_INVALID, ERNIE_NO_MEMORY. Any thread. */
ERNIE_API ernie_status ernie_tokenize(const ernie_model *model, const char *text, size_t n_text,
                                      ernie_tokenize_mode mode, int32_t *ids, size_t capacity,
                                      size_t *n_ids, ernie_error *error);

/* Turn ids into text. Control tokens (such as "</s>") give nothing unless `with_special`. Bytes
 * that are not UTF-8 become U+FFFD.
 *
 *   text      [capacity], terminated with 0 when there is room; may be NULL when capacity is 0
 *   n_text    receives the bytes of the whole text without the 0, also on ERNIE_FULL
 *
 * Returns ERNIE_OK, ERNIE_FULL, ERNIE_INVALID (an id out of range, named), ERNIE_NO_MEMORY.
 * Any thread. */
ERNIE_API ernie_status ernie_detokenize(const ernie_model *model, const int32_t *ids, size_t n_ids,
                                        bool with_special, char *text, size_t capacity,
                                        size_t *n_text, ernie_error *error);

/* The id of the token written exactly as `piece` ("</s>", "▁the"), or -1. Any thread. */
ERNIE_API int32_t ernie_token_find(const ernie_model *model, const char *piece);

/* The token's piece as the vocabulary writes it ("▁the", "<0x0A>"), with its length in *n_piece
 * (may be NULL); NULL when the id is out of range. Lives as long as the model. Any thread. */
ERNIE_API const char *ernie_token_piece(const ernie_model *model, int32_t id, size_t *n_piece);

/* Decoding that streams: bytes of an unfinished character are held back until it is complete.
 * Zero-initialise; one per stream. */
typedef struct ernie_text_stream {
    uint8_t held[4];
    uint32_t n_held;
} ernie_text_stream;

#define ERNIE_STREAM_TEXT_MAX 512 /* most bytes one push or finish can give */

/* Append the text that `id` completes to `text` [ERNIE_STREAM_TEXT_MAX]; *n_text receives its bytes
 * (0 while a character is unfinished, and for control tokens). Returns ERNIE_OK, or ERNIE_INVALID:
 * an id outside 0 .. n_tokens - 1 gives 0 bytes, a NULL argument or a model without a tokenizer
 * writes nothing; the stream is as it was and may go on.
 * `ernie_text_stream_finish` gives what is still held, as U+FFFD. Any thread, one per stream. */
ERNIE_API ernie_status ernie_text_stream_push(ernie_text_stream *stream, const ernie_model *model,
                                              int32_t id, char *text, size_t *n_text);
ERNIE_API void ernie_text_stream_finish(ernie_text_stream *stream, char *text, size_t *n_text);

/* ---- Prompts ------------------------------------------------------------------------------- */

typedef enum ernie_role {
    ERNIE_ROLE_SYSTEM = 0,
    ERNIE_ROLE_USER = 1,
    ERNIE_ROLE_ASSISTANT = 2,
    ERNIE_ROLE_FORCE_INT = 0x7fffffff
} ernie_role;

typedef struct ernie_message {
    ernie_role role;
    const char *content;   /* terminated UTF-8 */
    const char *reasoning; /* thinking models, assistant turns: may be NULL */
} ernie_message;

/* Write a conversation in the model's chat format as ids, ready to be fed: with the begin token,
 * every turn and, when `add_generation_prompt`, the opening of the assistant's answer. Message
 * texts never produce special tokens.
 *
 * A system message must be the first one. Returns ERNIE_OK, ERNIE_FULL (as ernie_tokenize),
 * ERNIE_INVALID (no messages, a system message that is not first), ERNIE_UNSUPPORTED (the file's
 * chat template is unknown), ERNIE_NO_MEMORY. Any thread. */
ERNIE_API ernie_status ernie_chat_tokenize(const ernie_model *model, const ernie_message *messages,
                                           size_t n_messages, bool add_generation_prompt,
                                           int32_t *ids, size_t capacity, size_t *n_ids,
                                           ernie_error *error);

/* The same conversation as text, special tokens written out. Parameters as ernie_detokenize. */
ERNIE_API ernie_status ernie_chat_render(const ernie_model *model, const ernie_message *messages,
                                         size_t n_messages, bool add_generation_prompt, char *text,
                                         size_t capacity, size_t *n_text, ernie_error *error);

/* The web-search prompts published with ERNIE 4.5: an answer grounded in references. */
typedef enum ernie_language {
    ERNIE_LANGUAGE_ZH = 0,
    ERNIE_LANGUAGE_EN = 1,
    ERNIE_LANGUAGE_FORCE_INT = 0x7fffffff
} ernie_language;

typedef struct ernie_reference {
    const char *title;     /* any field may be NULL: the line is written empty */
    const char *published; /* "2025-04-20" */
    const char *content;
    const char *url;
    const char *site;
} ernie_reference;

/* Build the user message of a search-grounded question.
 *
 *   date        recommended form "YYYY-MM-DD HH:MM:SS, Day of the Week, Beijing/China."
 *   references  [n_references], may be NULL when 0
 *   text        [capacity] as ernie_detokenize
 *
 * Returns ERNIE_OK, ERNIE_FULL (n_text says how many bytes), ERNIE_INVALID. Any thread. */
ERNIE_API ernie_status ernie_search_prompt(ernie_language language, const char *date,
                                           const char *question, const ernie_reference *references,
                                           size_t n_references, char *text, size_t capacity,
                                           size_t *n_text, ernie_error *error);

/* ---- Session ------------------------------------------------------------------------------- */

typedef struct ernie_session ernie_session;

typedef enum ernie_kv_type {
    ERNIE_KV_DEFAULT = 0, /* f16 */
    ERNIE_KV_F16 = 1,
    ERNIE_KV_F32 = 2,
    ERNIE_KV_Q8 = 3, /* 8.5 bits a number, for long contexts */
    ERNIE_KV_Q4 = 4, /* 5 bits: keys of 5.5, values of 4.5; for contexts that q8 leaves no room for */
    ERNIE_KV_FORCE_INT = 0x7fffffff
} ernie_kv_type;

/* The experts that one layer chose: ids and weights [n_tokens][moe_k]. For traces and tests; called
 * on the calling thread, in layer order for each batch. */
typedef void (*ernie_route_fn)(uint32_t layer, uint32_t n_tokens, uint32_t moe_k,
                               const int32_t *experts, const float *weights, void *user);

typedef struct ernie_session_options {
    uint32_t size;
    uint32_t n_ctx;        /* tokens of context; 0: the smaller of 4096 and the model's limit */
    uint32_t n_batch;      /* prompt tokens per forward step; 0: 512, or more where experts are
                              streamed: each is then read once a step */
    uint32_t n_threads;    /* 0: one per physical core that this process may use. Every phase waits
                              for its slowest thread: give fewer where other work takes cores */
    ernie_kv_type kv_type; /* cache of keys and values */
    ernie_progress_fn progress; /* NULL: none; called after each batch of a prompt, in tokens */
    void *progress_user;
    ernie_route_fn route; /* NULL: none */
    void *route_user;
} ernie_session_options;

#ifndef __cplusplus
#define ERNIE_SESSION_OPTIONS_INIT { .size = (uint32_t)sizeof(ernie_session_options) }
#endif
ERNIE_API ernie_session_options ernie_session_options_init(void);

typedef struct ernie_memory {
    uint32_t size;          /* set by the caller to sizeof(ernie_memory) */
    uint32_t n_threads;     /* that the session would run on, the caller's included */
    uint64_t kv_bytes;      /* keys and values of n_ctx tokens */
    uint64_t scratch_bytes; /* activations, logits and all else */
    uint64_t total_bytes;   /* exactly what ernie_session_create asks the allocator for */
    uint64_t weight_bytes;  /* the model's file, mapped and shared by all sessions */
    uint32_t n_ctx, n_batch; /* that the session would have */
    uint64_t ceiling_bytes; /* ernie_model_options.memory, or what it stood for; UINT64_MAX: none */
    uint64_t held_bytes;    /* that the model and its sessions hold now, experts on slots not counted */
    uint32_t n_slots;       /* experts that memory would have room for beside this session */
    uint32_t n_slots_min;   /* and has to have room for; both 0 where nothing is streamed */
    uint64_t least_bytes;   /* a ceiling that what is held now and this session would work under */
} ernie_memory;

/* Fill `memory` with what a session with these options would use; nothing is spent, and fields
 * beyond its `size` stay untouched. Returns ERNIE_OK, ERNIE_INVALID (`size` is 0, n_ctx is above
 * the model's limit, and the like), ERNIE_UNSUPPORTED (newer options), ERNIE_NO_MEMORY (more than
 * can be addressed). Any thread. */
ERNIE_API ernie_status ernie_session_plan(const ernie_model *model,
                                          const ernie_session_options *options,
                                          ernie_memory *memory, ernie_error *error);

/* Create a session. All of its memory is allocated here; feeding, sampling and generating allocate
 * nothing (ask, save and load take working memory and give it back). Where the model has a ceiling,
 * the session must fit under it; a streamed model gives experts' memory up for it. Returns
 * ERNIE_OK, ERNIE_INVALID, ERNIE_NO_MEMORY (names the bytes), ERNIE_UNSUPPORTED. After failure *out
 * is NULL. Any thread; afterwards one thread per session at a time. */
ERNIE_API ernie_status ernie_session_create(ernie_session **out, const ernie_model *model,
                                            const ernie_session_options *options,
                                            ernie_error *error);

/* Free the session; no call on it may be in progress. NULL is ignored. */
ERNIE_API void ernie_session_free(ernie_session *session);

/* A second session with the same options, tokens, logits and random numbers, advancing on its own
 * from here on. The random numbers matter to ernie_session_sample only: generate and ask start
 * anew from their seed. A request to cancel is not copied.
 * Returns ERNIE_OK, ERNIE_NO_MEMORY; *out is NULL after failure, `session` is unchanged always.
 * Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_fork(ernie_session **out, ernie_session *session,
                                          ernie_error *error);

/* Run the model over `n` more tokens; the logits after the last one stay in the session.
 *
 *   tokens   [n], ids in 0 .. vocab_size - 1; read before return
 *   n        1 .. ernie_session_room(session)
 *
 * Returns ERNIE_OK, ERNIE_INVALID (an id out of range, n of 0), ERNIE_FULL (n exceeds the room;
 * names both), ERNIE_CANCELLED and, where experts come from disk, ERNIE_IO or ERNIE_CORRUPT (names
 * layer, expert and offset; the next call tries again). After any failure the session holds the
 * tokens it held before the call; after ERNIE_CANCELLED, ERNIE_IO and ERNIE_CORRUPT its logits are
 * gone until the next feed, otherwise they are as they were. Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_feed(ernie_session *session, const int32_t *tokens, size_t n,
                                          ernie_error *error);

/* As feed, and writes the logits after each of the tokens to `logits` [n][vocab_size], whose
 * content is undefined after ERNIE_CANCELLED. Padding ids (n_tokens and above) hold -INFINITY. */
ERNIE_API ernie_status ernie_session_feed_logits(ernie_session *session, const int32_t *tokens,
                                                 size_t n, float *logits, ernie_error *error);

/* Make the session hold exactly `tokens` [n]: keeps the longest common beginning, drops what
 * differs, feeds the rest (at least the last token, so that logits are there).
 * Statuses as feed (n may be up to the whole context). After ERNIE_CANCELLED the session holds the
 * common beginning, without logits; after other failures it is as it was. */
ERNIE_API ernie_status ernie_session_sync(ernie_session *session, const int32_t *tokens, size_t n,
                                          ernie_error *error);

/* Logits [vocab_size] after the last token, as floats; padding ids hold -INFINITY. NULL when
 * nothing has been fed since creation, a rewind, or a failure that takes them. Valid until the next
 * call that changes the session. */
ERNIE_API const float *ernie_session_logits(const ernie_session *session);

/* What a session has asked of the experts of a streamed model; sums since the session was created.
 * All 0 for other models. */
typedef struct ernie_stream_stats {
    uint32_t size;         /* set by the caller to sizeof(ernie_stream_stats) */
    uint32_t n_slots;      /* experts that memory has room for now */
    uint64_t n_used;       /* times that an expert was needed: in decoding layers x moe_k a token */
    uint64_t n_hits;       /* of these, the expert was in memory, */
    uint64_t n_joined;     /* was on its way, */
    uint64_t n_misses;     /* or had to be read */
    uint64_t n_ahead;      /* experts read ahead, */
    uint64_t n_ahead_used; /* of which so many were needed */
    uint64_t bytes_read;
    double wait_seconds;   /* that computing stood still for the disk */
    double disk_seconds;   /* that the disk was busy, for all sessions of the model */
} ernie_stream_stats;

/* Fill `stats`. Returns ERNIE_OK or ERNIE_INVALID. Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_stream_stats(const ernie_session *session,
                                                  ernie_stream_stats *stats);

ERNIE_API size_t ernie_session_length(const ernie_session *session); /* tokens held */
ERNIE_API size_t ernie_session_room(const ernie_session *session);   /* tokens that still fit */
ERNIE_API const int32_t *ernie_session_tokens(const ernie_session *session); /* [length] */

/* Drop the tokens from position n on; 0 empties the session. Returns ERNIE_OK, or ERNIE_INVALID
 * when n exceeds the length (nothing has changed then). The logits are gone until the next feed,
 * unless n is the length: then there is nothing to drop. */
ERNIE_API ernie_status ernie_session_rewind(ernie_session *session, size_t n, ernie_error *error);

/* Write the session (tokens, keys and values, logits) to a file, or continue from one. The file is
 * checksummed and tied to the model and the cache type; it is written beside `path` and renamed, so
 * that a failure leaves an older file as it was.
 *
 * save: ERNIE_OK, ERNIE_INVALID, ERNIE_IO (named), ERNIE_NO_MEMORY. load: also ERNIE_FORMAT,
 * ERNIE_CORRUPT, ERNIE_MISMATCH (other model or kv_type), ERNIE_FULL (more tokens than n_ctx),
 * ERNIE_UNSUPPORTED (other version). After a failed load the session is empty and may be fed.
 * Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_save(const ernie_session *session, const char *path,
                                          ernie_error *error);
ERNIE_API ernie_status ernie_session_load(ernie_session *session, const char *path,
                                          ernie_error *error);

/* Stop the feed, sync, generate or ask in progress within 50 ms; it returns ERNIE_CANCELLED
 * (generate and ask: the tokens made so far stay). A request made while nothing runs stops the next
 * such call; the call that returns ERNIE_CANCELLED has used the request up. Any thread. */
ERNIE_API void ernie_session_cancel(ernie_session *session);

/* ---- Generation ---------------------------------------------------------------------------- */

typedef struct ernie_logit_bias {
    int32_t id;
    float bias; /* up to 1e30, added to the logit; -INFINITY forbids the token */
} ernie_logit_bias;

/* Zero means: the model file's default, else the value in brackets. A model whose defaults ask for
 * greedy decoding gets it where temperature, top_k, top_p and min_p are all zero. */
typedef struct ernie_sampling {
    uint32_t size;
    bool greedy;              /* always the likeliest token; temperature and filters are ignored */
    bool ignore_eos;          /* do not stop at the end-of-turn tokens */
    float temperature;        /* [1] above 0, up to 1e6 */
    uint32_t top_k;           /* [0: off] keep the k likeliest */
    float top_p;              /* [1: off] keep the smallest set whose probability reaches it */
    float min_p;              /* [0: off] keep tokens at least min_p times as likely as the best */
    float repetition_penalty; /* [1: off] divides positive, multiplies negative logits of seen ids;
                                 1e-6 to 1e6 */
    float frequency_penalty;  /* [0] subtracted per occurrence; -1e30 to 1e30 */
    float presence_penalty;   /* [0] subtracted once when seen; -1e30 to 1e30 */
    uint32_t penalty_window;  /* [0: the whole session] last tokens that count as seen */
    uint64_t seed;            /* [0: from the clock] generate and ask start anew from it in every
                                 call; the seed used is in ernie_result */
    uint32_t n_max;           /* [0: until the context is full] tokens to make */
    uint32_t n_top;           /* [0] likeliest tokens to report with log-probabilities, up to 20 */
    const ernie_logit_bias *bias;
    size_t n_bias;
    const char *const *stop;  /* [n_stop] terminated strings; output ends before the first found.
                                 The tokens that spelled it stay in the session and are counted */
    size_t n_stop;            /* up to 16, each 1 to 256 bytes of UTF-8 */
    const int32_t *stop_ids;  /* besides the model's own */
    size_t n_stop_ids;
} ernie_sampling;

#ifndef __cplusplus
#define ERNIE_SAMPLING_INIT { .size = (uint32_t)sizeof(ernie_sampling) }
#endif
ERNIE_API ernie_sampling ernie_sampling_init(void);

typedef struct ernie_logprob {
    int32_t id;
    float logprob; /* natural logarithm of the model's probability, before temperature and filters */
} ernie_logprob;

#define ERNIE_TOP_MAX 20

/* What a token callback receives. `text` is whole characters only and may be empty (an unfinished
 * character, or text held back because it may begin a stop string); it is not terminated. A last
 * call with id -1 brings text that was still held when generation ended; the part of a stop string
 * is never reported. */
typedef struct ernie_token {
    int32_t id;
    const char *text;
    size_t n_text;
    float logprob;            /* of the chosen id */
    const ernie_logprob *top; /* [n_top], likeliest first; id -1 where the vocabulary has no more */
    size_t n_top;
    size_t index;             /* 0 for the first token of this call */
} ernie_token;

/* Return non-zero to stop after this token: it stays in the session, text still held is dropped,
 * and the function is not called again. Called on the calling thread. */
typedef int (*ernie_token_fn)(const ernie_token *token, void *user);

typedef enum ernie_stop {
    ERNIE_STOP_NONE = 0,
    ERNIE_STOP_END = 1,       /* the model ended its turn */
    ERNIE_STOP_ID = 2,        /* one of stop_ids */
    ERNIE_STOP_STRING = 3,    /* one of the stop strings */
    ERNIE_STOP_LENGTH = 4,    /* n_max reached */
    ERNIE_STOP_CONTEXT = 5,   /* the context is full */
    ERNIE_STOP_CALLBACK = 6,  /* the token callback said so */
    ERNIE_STOP_CANCELLED = 7, /* ernie_session_cancel, or an error: see the status */
    ERNIE_STOP_FORCE_INT = 0x7fffffff
} ernie_stop;

typedef struct ernie_result {
    uint32_t size;          /* set by the caller to sizeof(ernie_result) */
    ernie_stop stop;
    int32_t stop_id;        /* the id that ended it (not counted, not fed), or -1 */
    uint64_t seed;          /* the one used: given as params.seed, it repeats this call */
    size_t n_prompt;        /* tokens fed by this call before generating (ask only) */
    size_t n_generated;     /* tokens made that the session now holds, those of a stop string too */
    double prompt_seconds;
    double decode_seconds;
} ernie_result;

/* Choose the next token from the session's logits without feeding it. `top` [params.n_top] may be
 * NULL. Random numbers are drawn from the session's generator, which is seeded at the first call
 * (by the clock where params.seed is 0) and whenever params.seed is neither 0 nor the seed in use.
 * Returns ERNIE_OK, ERNIE_INVALID (no logits, a parameter out of range, named; the biases forbid
 * every token), ERNIE_FORMAT (a logit is no finite number: the weights are damaged),
 * ERNIE_UNSUPPORTED (newer params). After a failure the session is as it was. Thread: one thread
 * per session. */
ERNIE_API ernie_status ernie_session_sample(ernie_session *session, const ernie_sampling *params,
                                            ernie_logprob *chosen, ernie_logprob *top,
                                            ernie_error *error);

/* Sample, report and feed tokens until something of ernie_stop says enough. Needs logits: feed a
 * prompt first. Random numbers start anew from params.seed in each call, from the clock where it is
 * 0; only ernie_session_sample goes on where the last call stopped.
 *
 *   params   NULL for the model's defaults
 *   fn       may be NULL
 *   result   may be NULL; filled also on failure
 *
 * Statuses as sample (its ERNIE_INVALID: nothing was generated), and ERNIE_CANCELLED. Tokens
 * reported before a failure stay in the session; only the last one is missing from it when its own
 * step was cancelled. ernie_result.n_generated is always the number by which the session has grown.
 * Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_generate(ernie_session *session, const ernie_sampling *params,
                                              ernie_token_fn fn, void *user, ernie_result *result,
                                              ernie_error *error);

/* One turn of conversation: appends `question` as a user message in the model's chat format, opens
 * the assistant's answer and generates it as ernie_session_generate does. On an empty session this
 * starts a conversation. Otherwise it takes the session's end for the end of an assistant's answer,
 * closes that turn where it is still open, and continues.
 *
 * To begin with a system message, tokenize it together with the first question
 * (ernie_chat_tokenize with add_generation_prompt), feed the ids and generate; ask goes on from the
 * second question. A system message fed alone would be closed as if it were an answer.
 *
 * Statuses as generate, and ERNIE_UNSUPPORTED (unknown chat template, no tokenizer), ERNIE_FULL
 * (the turn does not fit), ERNIE_NO_MEMORY; after these the session is as it was.
 * Thread: one thread per session. */
ERNIE_API ernie_status ernie_session_ask(ernie_session *session, const char *question,
                                         const ernie_sampling *params, ernie_token_fn fn, void *user,
                                         ernie_result *result, ernie_error *error);

#ifdef __cplusplus
}
#endif
#endif /* ERNIE_H */
