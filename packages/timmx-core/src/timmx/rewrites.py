"""x"""
def replace_unfold(gm):
    return 0
