"""Texts that tokenizers cut in different ways."""

PARTS = [
    "Hello, world!", "the quick brown fox", "THE QUICK", "it's they're I'LL won't", "e.g. U.S.A., etc.", "3.14159", "1,234,567",
    "2026-02-03T14:05:06Z", "0xDEADBEEF", "12345678901234567890", "½ ² ٣ ४ 五", "$5 €6 £7 ¥8", "a+b=c; x*=2", "f(x) = x**2 // 3",
    "def main():\n    return None\n", "\tif (a && b) {\n\t\tc++;\n\t}\r\n", "<div class=\"a\">b</div>", "{\"k\": [1, 2.5, null]}",
    "https://example.org/a?b=c#d", "user@example.org", "C:\\path\\to", "`code` **bold** _it_", "#include <x.h>", "--flag=value",
    "Grüße aus Zürich", "naïve café", "e\u0301 a\u0308 \u1ea5", "Ça va ? L’été", "Привет, мир", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界。", "こんにちは 世界", "カタカナ ﾊﾝｶｸ", "안녕하세요 세계", "ﬁ ﬂ ＡＢＣ １２３", "İstanbul ıI", "ßẞ ŉ ǆ",
    "🌍🌎", "👩‍👩‍👧‍👦", "🇨🇭🇩🇪", "👍🏽", "☂\ufe0f", "…—–‘’“”«»", "∑∫√∞≠", "𝔘𝔫𝔦 𐍈", "\u200b\u200d\ufeff", "\u00a0\u2003\u3000", "\u202eabc",
    " ", "  ", "    ", "\n", "\n\n", "\n\n\n", "\r\n", "\t", "\t\t", " \n ", "\x00\x01\x1f\x7f", "\x85\u2028\u2029", "\ue000\U00100000",
    "aaaaaaaaaaaaaaaaaaaaaaaa", "=====", "----------", "................", "Donaudampfschifffahrtsgesellschaft", "▁▁ ▁a", "Ġa Ċ",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "[INST]", "[/INST]",
    "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|user|>", "<|end|>", "<|return|>",
    "<|channel|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<tool_call>", "<EOT>", "[CLS]", "[MASK]",
    "<|im_", "_end|>", "<0x0A>", "<table>", "<unused7>", "<|reserved_special_token_9|>",
]
COUNT = 300


def lines():
    """Each part, and then several of them at random: always the same."""
    state = 12345
    for part in PARTS:
        yield part
    for number in range(COUNT - len(PARTS)):
        line = ""
        for _ in range(2 + number % 9):
            # A linear congruential generator, so that no library decides what is drawn.
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            drawn = state >> 33
            line += PARTS[drawn % len(PARTS)] + ("", " ", "")[drawn // len(PARTS) % 3]
        yield line
