/* Numbers as people type them. strtoul and its kin accept leading blanks, signs and hexadecimal, wrap
 * negative numbers and need errno to tell an overflow; digits are read here one by one instead, and
 * strtof sees a text only after its letters have been checked. */
#include "numbers.h"
#include "buffer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool numbers_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits from *at on; moves *at behind them. */
static bool numbers_digits(const char **at, uint64_t *out)
{
    if (!numbers_is_digit(**at)) return false;
    uint64_t value = 0;
    for (; numbers_is_digit(**at); (*at)++) {
        const uint64_t digit = (uint64_t)(**at - '0');
        if (value > (UINT64_MAX - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

bool number_count(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value;
    if (!numbers_digits(&text, &value) || *text) return false;
    if (value < min || value > max) return false;
    *out = value;
    return true;
}

bool number_real(const char *text, bool infinite, float *out)
{
    const char *unsigned_text = text + (*text == '-' || *text == '+');
    if (infinite && !strcmp(unsigned_text, "inf")) {
        *out = *text == '-' ? -INFINITY : INFINITY;
        return true;
    }
    if (!numbers_is_digit(unsigned_text[0])
        && !(unsigned_text[0] == '.' && numbers_is_digit(unsigned_text[1])))
        return false;
    if (strspn(unsigned_text, "0123456789.eE+-") != strlen(unsigned_text)) return false;
    char *end;
    const float value = strtof(text, &end);
    if (*end || !isfinite(value)) return false;
    *out = value;
    return true;
}

/* The power of two that a size's suffix stands for, -1 for anything else. */
static int numbers_size_shift(const char *suffix)
{
    static const char letters[] = "KMGT";
    if (!*suffix) return 0;
    const char upper = (char)(*suffix >= 'a' ? *suffix - 'a' + 'A' : *suffix);
    const char *letter = strchr(letters, upper);
    if (!letter) return -1;
    suffix++;
    if (*suffix && strcmp(suffix, "B") != 0 && strcmp(suffix, "iB") != 0) return -1;
    return 10 * (int)(letter - letters + 1);
}

bool number_size(const char *text, uint64_t *out)
{
    uint64_t value;
    if (!numbers_digits(&text, &value)) return false;
    const int shift = numbers_size_shift(text);
    if (shift < 0 || value > UINT64_MAX >> shift) return false;
    *out = value << shift;
    return true;
}

bool number_id_value(const char *text, int32_t *id, float *value)
{
    uint64_t number;
    float real;
    if (!numbers_digits(&text, &number) || number > INT32_MAX || *text != '=') return false;
    if (!number_real(text + 1, true, &real)) return false;
    *id = (int32_t)number;
    *value = real;
    return true;
}

void id_list_push(id_list *list, int32_t id)
{
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->ids = memory_resize(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->n++] = id;
}

void id_list_free(id_list *list)
{
    free(list->ids);
    *list = (id_list){ 0 };
}

static const char *numbers_skip_blanks(const char *text)
{
    return text + strspn(text, " \t\r\n");
}

bool number_ids(const char *text, id_list *list, const char **bad, size_t *n_bad)
{
    for (;; text++) {
        text = numbers_skip_blanks(text);
        const char *at = text;
        uint64_t id;
        const bool is_id = numbers_digits(&at, &id) && id <= INT32_MAX;
        if (is_id) at = numbers_skip_blanks(at);
        if (!is_id || (*at && *at != ',')) {
            *bad = text;
            *n_bad = strcspn(text, ",");
            return false;
        }
        id_list_push(list, (int32_t)id);
        if (!*at) return true;
        text = at;
    }
}
