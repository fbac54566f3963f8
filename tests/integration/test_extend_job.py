def test_x(ropewalk, model, book, tmp_path):
    import time
    t=time.time()
    d=ropewalk("extend", model, "--to", 1024, "--text", book, "--out", tmp_path/"out", "--dtype", "float32")
    print(time.time()-t, d.code); print(d.err); print(d.out)
    import subprocess
    print(subprocess.run(["find", str(tmp_path/"out")],capture_output=True,text=True).stdout)
    print((tmp_path/"out"/"rows.jsonl").read_text()[:6000])
    assert 0
