/* The turns of a chat: what is kept, what is forgotten, and their file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../tools/ernie/conversation.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The contents joined by "|", for comparing. */
static void assert_talk(const conversation *talk, const char *expected)
{
    char joined[200] = "";
    for (size_t i = 0; i < talk->n; i++) {
        if (i) strcat(joined, "|");
        strcat(joined, talk->messages[i].content);
    }
    assert_string_equal(joined, expected);
}

static void fill(conversation *talk, size_t n_turns)
{
    for (size_t i = 0; i < n_turns; i++) {
        char text[24];
        snprintf(text, sizeof text, "q%zu", i);
        conversation_add(talk, ERNIE_ROLE_USER, text);
        text[0] = 'a';
        conversation_add(talk, ERNIE_ROLE_ASSISTANT, text);
    }
}

static void oldest_turns_go_first(void **state)
{
    (void)state;
    conversation talk = { 0 };
    conversation_set_system(&talk, "s");
    fill(&talk, 2);
    conversation_add(&talk, ERNIE_ROLE_USER, "q2");
    assert_talk(&talk, "s|q0|a0|q1|a1|q2");
    assert_true(conversation_drop_oldest(&talk));
    assert_talk(&talk, "s|q1|a1|q2");
    assert_true(conversation_drop_oldest(&talk));
    assert_talk(&talk, "s|q2");
    assert_false(conversation_drop_oldest(&talk));
    assert_talk(&talk, "s|q2");
    conversation_free(&talk);

    conversation_add(&talk, ERNIE_ROLE_USER, "q");
    assert_false(conversation_drop_oldest(&talk));
    conversation_free(&talk);
    assert_false(conversation_drop_oldest(&talk));
}

static void the_system_message_comes_and_goes(void **state)
{
    (void)state;
    conversation talk = { 0 };
    fill(&talk, 20);
    conversation_set_system(&talk, "one");
    conversation_set_system(&talk, "two");
    assert_int_equal(talk.n, 41);
    assert_int_equal(talk.messages[0].role, ERNIE_ROLE_SYSTEM);
    assert_string_equal(talk.messages[0].content, "two");
    conversation_clear(&talk);
    assert_talk(&talk, "two");
    conversation_set_system(&talk, NULL);
    assert_int_equal(talk.n, 0);
    conversation_set_system(&talk, NULL);
    conversation_drop_last(&talk);
    assert_int_equal(talk.n, 0);
    conversation_free(&talk);
}

static char path[64];

static void write_file(const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void a_saved_talk_comes_back(void **state)
{
    (void)state;
    conversation talk = { 0 }, loaded = { 0 };
    file_error error;
    conversation_set_system(&talk, "be \"kind\"\n");
    fill(&talk, 1);
    conversation_add(&talk, ERNIE_ROLE_USER, "\xe8\xaf\x97");
    conversation_add(&talk, ERNIE_ROLE_ASSISTANT, "</s>");
    assert_true(conversation_save(&talk, path, &error));
    fill(&loaded, 3);
    assert_true(conversation_load(&loaded, path, &error));
    assert_talk(&loaded, "be \"kind\"\n|q0|a0|\xe8\xaf\x97|</s>");
    assert_int_equal(loaded.messages[4].role, ERNIE_ROLE_ASSISTANT);
    conversation_free(&talk);
    conversation_free(&loaded);
}

static void bad_files_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *text, *fragment;
    } cases[] = {
        { "", "line 1 is not JSON" },
        { "{\"messages\": [", "is not JSON" },
        { "[]", "messages is not an array" },
        { "{}", "messages is not an array" },
        { "{\"messages\": 3}", "messages is not an array" },
        { "{\"messages\": [3]}", "messages[0]" },
        { "{\"messages\": [{\"role\": \"user\"}]}", "messages[0]" },
        { "{\"messages\": [{\"role\": \"user\", \"content\": 5}]}", "messages[0]" },
        { "{\"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}", "messages[0]" },
        { "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}", "messages[0]" },
        { "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "no answer" },
        { "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"},"
          " {\"role\": \"system\", \"content\": \"y\"}]}",
          "messages[1]" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        conversation talk = { 0 };
        file_error error = { "" };
        fill(&talk, 1);
        write_file(cases[i].text);
        if (conversation_load(&talk, path, &error)) fail_msg("accepted: %s", cases[i].text);
        if (!strstr(error.reason, cases[i].fragment))
            fail_msg("%s: %s", cases[i].text, error.reason);
        assert_talk(&talk, "q0|a0");
        conversation_free(&talk);
    }
}

static void files_that_cannot_be_had(void **state)
{
    (void)state;
    conversation talk = { 0 };
    file_error error = { "" };
    assert_false(conversation_load(&talk, "/nowhere/talk.json", &error));
    assert_string_equal(error.reason, "cannot be opened: No such file or directory");
    assert_false(conversation_save(&talk, "/nowhere/talk.json", &error));
    assert_string_equal(error.reason, "cannot be written: No such file or directory");
    assert_false(conversation_load(&talk, "/", &error));
    assert_string_equal(error.reason, "is a directory, expected a file");
}

/* A limit on file size stands for a full disk: the older file stays, and nothing beside it. */
static void a_full_disk_keeps_the_older_file(void **state)
{
    (void)state;
    struct rlimit old;
    char part[sizeof path + 8];
    conversation talk = { 0 }, loaded = { 0 };
    file_error error = { "" };
    fill(&talk, 1);
    assert_true(conversation_save(&talk, path, &error));
    fill(&talk, 5);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    const struct rlimit small = { 100, old.rlim_max };
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const bool saved = conversation_save(&talk, path, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_false(saved);
    assert_string_equal(error.reason, "cannot be written: File too large");
    snprintf(part, sizeof part, "%s.part", path);
    assert_int_equal(access(part, F_OK), -1);
    assert_true(conversation_load(&loaded, path, &error));
    assert_talk(&loaded, "q0|a0");
    conversation_free(&talk);
    conversation_free(&loaded);
}

static int make_path(void **state)
{
    (void)state;
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/ernie-talk-%ld.json",
             folder && strlen(folder) < 30 ? folder : "/tmp", (long)getpid());
    return 0;
}

static int remove_path(void **state)
{
    (void)state;
    remove(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oldest_turns_go_first),
        cmocka_unit_test(the_system_message_comes_and_goes),
        cmocka_unit_test(a_saved_talk_comes_back),
        cmocka_unit_test(bad_files_change_nothing),
        cmocka_unit_test(files_that_cannot_be_had),
        cmocka_unit_test(a_full_disk_keeps_the_older_file),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
