"""Loads and stores of a client in a mapped page of ours, carried out on a device one by one.

`decoder` reads an instruction (`x86_form`: its form, `x86_operations`: what it does), `tracer`
takes the thread that faulted.
"""
