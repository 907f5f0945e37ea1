from timmx.tools.snippets.snippet import make_snippet as make_snippet
