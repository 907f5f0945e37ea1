from timmx.tools.verify.verification import verify_file as verify_file
