"""The commands of `fcn-deploy`: a module each, which reads the options and calls the package.

Heavy imports happen inside the command bodies, so that every ``--help`` answers at once.
"""
