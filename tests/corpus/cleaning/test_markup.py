import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.markup import choose_simplified, drop_empty_brackets, drop_url_lines, simplify, strip_html


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("在群、环、-{zh-cn:域;zh-tw:体}-等", "在群、环、域等"),
        ("快速-{zh-tw: 成长; zh-hans: 增长;}-放缓", "快速增长放缓"),
        ("-{于}-尔班，地球-{}-表", "于尔班，地球表"),
        ("-{zh-hant:;zh-hans:;}-\n物理", "\n物理"),
        ("-{H|zh-hant:心里学;zh-hans:心里学;}-心理", "心理"),
        ("-{T|zh:条目}--{R|原文}-", "原文"),
        ("-{zh-hk:甲;zh-tw:乙}-", "甲"),
        ("-{A|zh-cn:博客;zh-tw:部落格}-", "博客"),
        ("x-{y} 与 -{未完", "x-{y} 与 -{未完"),
    ],
)
def test_language_variants(text, expected):
    assert choose_simplified(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一<br>二<BR/>三<br />四", "一\n二\n三\n四"),
        ("<p class='a'>段</p><b>粗</b>", "\n段\n粗"),
        ('<a href="http://a.cn/?x=1&y=2" title="b">链</a>', "链"),
        ("前<script>var a = '<b>';</script><!-- 注\n释 -->后", "前后"),
        ("5&nbsp;&lt;&#26041;&#x6cd5;&hellip;", "5\xa0<方法…"),
        ("AT&T 和 &notanentity; 与 a&copy=1", "AT&T 和 &notanentity; 与 a&copy=1"),
        ("见 <b>黑体</b> 字", "见 黑体 字"),
        (r"{\fn华文楷体\fs16\1cHE0E0E0}萤火虫{\i1}怎么{\i0}点亮{\an8}{\pos(192,36)}", "萤火虫怎么点亮"),
        (
            r"{\bf 粗体} 与 {\frac{1}{2}}、{\it 斜}、{\fnarrow x}",
            r"{\bf 粗体} 与 {\frac{1}{2}}、{\it 斜}、{\fnarrow x}",
        ),
        ("<div> <p>首行", "\n \n首行"),
        ("</p> <p>第二段 <br /> 第三段 <a href='http://a.cn'>链接</a>完", "\n \n第二段 \n 第三段 链接完"),
        # What only looks like markup, and markup that the text is about
        ("List<string> 与 a<b 且 c>d，Map<K, V>", "List<string> 与 a<b 且 c>d，Map<K, V>"),
        ("使用 <div> 换行，两侧加 <pre> 和 </pre> 标记", "使用 <div> 换行，两侧加 <pre> 和 </pre> 标记"),
        ("&lt;p&gt; 是段落", "<p> 是段落"),
    ],
)
def test_html(text, expected):
    assert strip_html(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“数学”（）一词，著作《》（Kitab）", "“数学”一词，著作（Kitab）"),
        ("物理学（，自然）与化学（，，）", "物理学（自然）与化学"),
        ("外（《》（，））内【】「 」", "外内"),
        ("限期（ ）内，著作《史记》()，", "限期内，著作《史记》，"),
        ("调用 main() 与 f(x)，数组 a[]、function () {}", "调用 main() 与 f(x)，数组 a[]、function () {}"),
        ("类名称() 与 打印( )，见()", "类名称() 与 打印( )，见()"),
        ("紫荆（学名：）是树，柏林（德语：，）", "紫荆是树，柏林"),
        ("茶（马来语：；泰米尔语：；）与鲣（IPA:）", "茶与鲣"),
        ("鲣（拼音：jiān；学名：）与茶（荷兰语：，法语：thé）", "鲣（拼音：jiān）与茶（法语：thé）"),
        ("（注：见下）与（如 1：2）", "（注：见下）与（如 1：2）"),
        ("用分号（;）与 (;) 分隔", "用分号（;）与 (;) 分隔"),
        ("（甲）《乙》「丙」", "（甲）《乙》「丙」"),
    ],
)
def test_empty_brackets(text, expected):
    assert drop_empty_brackets(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("文\nhttp://a.cn/x?y=1\n终", "文\n\n终"),
        ("来源：https://a.cn/b\n文", "\n文"),
        ("via: http://a.cn http://b.cn", ""),
        ("- www.a.cn/b", ""),
        ("www.a.cn期待您的光临！\n见 http://a.cn。", "www.a.cn期待您的光临！\n见 http://a.cn。"),
        ("没有地址的行：\n://", "没有地址的行：\n://"),
        ("图片:http://a.cn/0.jpg,http://a.cn/1.jpg、www.b.cn", ""),
    ],
)
def test_url_lines(text, expected):
    assert drop_url_lines(text) == expected


@given(st.text(alphabet="（）()《》「」【】，、；： \n甲a"))
def test_empty_brackets_are_removed_at_once(text):
    result = drop_empty_brackets(text)
    assert drop_empty_brackets(result) == result
    if "：" not in text:  # no labels, so nothing else is removed
        assert [char for char in result if char in "甲a\n"] == [char for char in text if char in "甲a\n"]


@given(st.text(alphabet="甲乙。\n a1"))
def test_text_without_markup_is_untouched(text):
    for rule in (choose_simplified, strip_html, drop_empty_brackets, drop_url_lines):
        assert rule(text) == text


def test_simplified_is_by_phrase():
    assert simplify("漢語裏的皇后在後面，乾隆乾杯") == "汉语里的皇后在后面，乾隆干杯"
    assert simplify("简体中文，ABC。") == "简体中文，ABC。"


def test_deeply_nested_brackets_take_little_time():
    start = time.process_time()
    drop_empty_brackets("（" * 20_000 + "）" * 20_000)
    assert time.process_time() - start < 5  # tens of seconds where it is quadratic


@pytest.mark.parametrize(
    "piece",
    [
        "（学名：",
        "，语：",
        "（语：，",
        "<a ",
        "<!--",
        "<script>",
        "（",
        "-{",
        "{\\fs1",
        "www.",
        "&#",
        "《 ",
        "http://a:",
        " \n",
    ],
)
def test_hostile_text_takes_little_time(piece):
    for rule in (choose_simplified, strip_html, drop_empty_brackets, drop_url_lines):
        rule(piece * 20_000)


def test_many_addresses_before_text_take_little_time():
    addresses = ",".join(f"http://a.cn/{index}.jpg" for index in range(2000))
    start = time.process_time()
    assert drop_url_lines(f"图片:{addresses} 完") == f"图片:{addresses} 完"
    assert time.process_time() - start < 5  # tens of seconds where it is quadratic
