import sys,glob,torch,numpy as np,time,os
sys.path.insert(0,"training/reader"); torch.set_num_threads(1)
from feats import features
rng=np.random.default_rng(int(sys.argv[1])); part,parts=int(sys.argv[1]),int(sys.argv[2])
fs=sorted(glob.glob("training/reader/views/*.pt"))[part::parts][:int(sys.argv[3])]; X=[];Y=[];W=[];N=[]
t=time.time()
for n,f in enumerate(fs):
    v,y,i=torch.load(f); v=v.float(); y=y.float()
    sx,sz=i["sp"][0],i["sp"][2]; z=max(sz,v.shape[-1] and sz if sz>=4 else 4.0)
    fe,g=features(v,z); t_=y[0]; brain=(y[1]>.3)|(t_>0.1)
    les=(t_>.5); near=(torch.nn.functional.max_pool3d(t_[None,None],(5,5,3),1,(2,2,1))[0,0]>.3)&~les&brain
    shown=(v[3]>.5)|(v[4]>.5)
    far=brain&~les&~near&shown
    outside=shown&~brain
    for m,k in ((les,160),(near,120),(far,260),(outside,40)):
        idx=torch.nonzero(m.flatten())[:,0].numpy()
        if not len(idx): continue
        c=rng.choice(idx,min(k,len(idx)),replace=False)
        X.append(torch.cat([fe.flatten(1)[:,c],g[:,None].half().expand(-1,len(c))]).T.numpy()); Y.append(t_.flatten()[c].numpy()); W.append(np.full(len(c),len(idx)/len(c),np.float32)); N.append(np.full(len(c),n*parts+part))
    if n%100==0: print(n,len(fs),time.time()-t,flush=True)
np.savez(f"training/reader/feat{part}.npz",X=np.concatenate(X),Y=np.concatenate(Y).astype(np.float32),W=np.concatenate(W),N=np.concatenate(N))
